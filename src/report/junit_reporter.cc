// JUnit XML as CI systems read it: testsuites > testsuite > testcase with at
// most one failure, error or skipped element.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <pugixml.hpp>
#include <sstream>
#include <utility>
#include <vector>

#include "kvtool/base/text.h"
#include "mismatches.h"
#include "report/reporter.h"
#include "wording.h"

namespace kvtool::report {
namespace {

constexpr std::size_t kJunitFlips = 5;

struct TestCase {
  enum class Outcome { kPassed, kFailed, kError, kSkipped };
  std::string class_name;
  std::string name;
  double seconds = 0.0;
  Outcome outcome = Outcome::kPassed;
  std::string type;
  std::string message;  // one line
  std::string details;
};

struct TestSuite {
  std::string name;
  std::vector<TestCase> cases;
  std::vector<std::pair<std::string, std::string>> properties;

  [[nodiscard]] std::size_t count(TestCase::Outcome outcome) const {
    return static_cast<std::size_t>(std::count_if(
        cases.begin(), cases.end(), [&](const auto& test) { return test.outcome == outcome; }));
  }
  [[nodiscard]] double seconds() const {
    double sum = 0.0;
    for (const TestCase& test : cases) sum += test.seconds;
    return sum;
  }
};

TestCase passed_case(std::string class_name, std::string name) {
  TestCase test;
  test.class_name = std::move(class_name);
  test.name = std::move(name);
  return test;
}

void set(pugi::xml_node node, const char* name, const std::string& value) {
  node.append_attribute(name).set_value(xml_text(value).c_str());
}

void set_counts(pugi::xml_node node, const std::vector<TestSuite>& suites) {
  using Outcome = TestCase::Outcome;
  std::size_t tests = 0;
  double seconds = 0.0;
  std::map<Outcome, std::size_t> counts;
  for (const TestSuite& suite : suites) {
    tests += suite.cases.size();
    seconds += suite.seconds();
    for (const Outcome outcome : {Outcome::kFailed, Outcome::kError, Outcome::kSkipped}) {
      counts[outcome] += suite.count(outcome);
    }
  }
  set(node, "tests", fmt::format("{}", tests));
  set(node, "failures", fmt::format("{}", counts[Outcome::kFailed]));
  set(node, "errors", fmt::format("{}", counts[Outcome::kError]));
  set(node, "skipped", fmt::format("{}", counts[Outcome::kSkipped]));
  set(node, "time", fmt::format("{:.3f}", seconds));
}

void append_case(pugi::xml_node suite, const TestCase& test) {
  using Outcome = TestCase::Outcome;
  pugi::xml_node node = suite.append_child("testcase");
  set(node, "classname", test.class_name);
  set(node, "name", test.name);
  set(node, "time", fmt::format("{:.3f}", test.seconds));
  if (test.outcome == Outcome::kPassed) return;
  pugi::xml_node outcome = node.append_child(test.outcome == Outcome::kFailed  ? "failure"
                                             : test.outcome == Outcome::kError ? "error"
                                                                               : "skipped");
  set(outcome, "message", test.message);
  if (test.outcome != Outcome::kSkipped) set(outcome, "type", test.type);
  if (!test.details.empty()) outcome.text().set(xml_text(test.details).c_str());
}

std::string flip_text(const run::ModeReplay& mode, std::size_t index) {
  const analysis::TokenComparison& token = mode.comparison.tokens[index];
  const run::TokenText text = index < mode.texts.size() ? mode.texts[index] : run::TokenText{};
  return fmt::format("{}, {}: predicted {}, recorded {}, {}", format::replay_mode_name(mode.mode),
                     place_of(token.index), token_quote(token.predicted, text.predicted),
                     token_quote(token.recorded, text.recorded),
                     describe_gap(token, mode.comparison.bounds));
}

// One line for each of the first hard flips, then what is not finite.
std::vector<std::string> failures_of(const run::Replay& replay) {
  std::vector<std::string> lines;
  for (const run::ModeReplay& mode : replay.modes) {
    std::size_t flips = 0;
    for (std::size_t i = 0; i < mode.comparison.tokens.size(); ++i) {
      if (mode.comparison.tokens[i].verdict != analysis::TokenVerdict::kHardFlip) continue;
      if (flips++ < kJunitFlips) lines.push_back(flip_text(mode, i));
    }
    const std::string_view name = format::replay_mode_name(mode.mode);
    if (flips > kJunitFlips) {
      lines.push_back(fmt::format("{}: {} more", name, counted(flips - kJunitFlips, "hard flip")));
    }
    if (mode.comparison.nonfinite()) lines.push_back(fmt::format("{}: NaN or Inf", name));
  }
  return lines;
}

// The input's share of its batch, so that a suite adds up to the time that passed.
double seconds_of(const run::InputResult& input) {
  const auto rows = static_cast<double>(std::max<std::uint64_t>(input.rows, 1));
  if (!input.replay) return (input.timing.prefill_seconds + input.timing.decode_seconds) / rows;
  double seconds = 0.0;
  for (const run::ModeReplay& mode : input.replay->modes) {
    seconds += mode.timing.prefill_seconds + mode.timing.decode_seconds;
  }
  return seconds / rows;
}

TestCase input_case(const run::InputResult& input) {
  TestCase test = passed_case(input.model_slug, to_string(input.name()));
  test.seconds = seconds_of(input);
  if (!input_failed(input)) return test;
  const std::vector<std::string> lines = failures_of(*input.replay);
  test.outcome = TestCase::Outcome::kFailed;
  test.type = "comparison";
  test.message = lines.front();
  for (const std::string& line : lines) test.details += line + "\n";
  test.details += "recording: " + input.replay->recording;
  return test;
}

TestCase rule_case(const run::Verdict& verdict, const analysis::RuleResult& rule) {
  TestCase test = passed_case(verdict.model_slug + ".gate", rule.rule.figure);
  if (!rule.unjudged.empty()) {
    test.outcome = TestCase::Outcome::kSkipped;
    test.message = rule.unjudged;
  }
  if (rule.passed) return test;
  test.outcome = TestCase::Outcome::kFailed;
  test.type = rule.measured ? "gate" : "missing";
  test.message = describe(rule);
  if (rule.matched > 1) {
    for (const std::string& figure : rule.failures) test.details += figure + "\n";
  }
  return test;
}

TestCase missing_case(const std::string& path) {
  TestCase test = passed_case("kvtool.diff", path);
  test.outcome = TestCase::Outcome::kFailed;
  test.type = "missing";
  test.message = "not compared: it has no partner";
  return test;
}

TestCase control_case(const run::SelftestResult& result) {
  TestCase test = passed_case(result.model_slug + ".selftest", "control");
  if (result.control_passed) return test;
  test.outcome = TestCase::Outcome::kFailed;
  test.type = "control";
  test.message = "the replay without a fault fails gate " + result.gate;
  for (const analysis::RuleResult& rule : result.control_failures) {
    test.details += describe(rule) + "\n";
  }
  return test;
}

TestCase fault_case(const run::SelftestResult& result, const run::FaultResult& fault) {
  TestCase test = passed_case(result.model_slug + ".selftest", fault.name);
  if (!fault.skipped.empty()) {
    test.outcome = TestCase::Outcome::kSkipped;
    test.message = fault.skipped;
  } else if (!fault.caught) {
    test.outcome = TestCase::Outcome::kFailed;
    test.type = "missed";
    test.message = fmt::format("{} passes gate {}", fault.description, result.gate);
  }
  return test;
}

void add_once(const std::string& name, std::string_view value, TestSuite& suite) {
  const std::pair property(name, std::string(value));
  if (std::ranges::find(suite.properties, property) != suite.properties.end()) return;
  suite.properties.push_back(property);
}

void add_flips(const std::string& stretch, const analysis::StretchSummary& summary,
               TestSuite& suite) {
  if (!summary.flips.tail) return;
  suite.properties.emplace_back("flips: " + stretch, flips_text(summary.flips));
}

// What the reader of a verdict must know besides its rules.
void add_properties(const run::Verdict& verdict, TestSuite& suite) {
  suite.properties.emplace_back("gate", verdict.gate.gate);
  suite.properties.emplace_back("finding", verdict.finding_text);
  suite.properties.emplace_back("reference_device", verdict.reference_device);
  suite.properties.emplace_back("device", verdict.device);
  if (!cache_line(verdict).empty()) {
    suite.properties.emplace_back("reference_cache", verdict.reference_cache);
    suite.properties.emplace_back("cache", verdict.cache);
  }
  if (verdict.different_weights) {
    suite.properties.emplace_back("different_weights", std::string(kDifferentWeights));
  }
  if (verdict.different_config) {
    suite.properties.emplace_back("different_config", std::string(kDifferentConfig));
  }
  if (verdict.parallel) suite.properties.emplace_back("parallel", std::string(kParallelReplay));
  if (verdict.numerics) suite.properties.emplace_back("numerics", numerics_line(verdict));
  suite.properties.emplace_back("judged", judged_line(verdict));
  add_flips("prefill", verdict.run.prefill, suite);
  for (const analysis::ModeSummary& mode : verdict.run.modes) {
    add_flips(std::string(format::replay_mode_name(mode.mode)), mode.steps, suite);
  }
  for (const analysis::ProvenanceDifference& difference : verdict.provenance) {
    suite.properties.emplace_back(
        "provenance: " + difference.label,
        fmt::format("recorded {}, here {}{}", difference.recorded, difference.live,
                    difference.is_range ? fmt::format(" ({} inputs)", difference.inputs) : ""));
  }
}

void append_properties(pugi::xml_node node, const TestSuite& suite) {
  if (suite.properties.empty()) return;
  pugi::xml_node properties = node.append_child("properties");
  for (const auto& [name, value] : suite.properties) {
    pugi::xml_node property = properties.append_child("property");
    set(property, "name", name);
    set(property, "value", value);
  }
}

class JunitReporter : public Reporter {
 public:
  explicit JunitReporter(std::function<void(const std::string&)> write)
      : write_(std::move(write)) {}

  void begin(const RunDescription& run) override { run_ = run; }
  void device(const run::DeviceDescription& device) override { device_ = device.label; }
  void model(const run::ModelDescription& /*model*/) override {}

  void input(const run::InputResult& input) override {
    suite(input.model_slug).cases.push_back(input_case(input));
  }

  void selftest(const run::SelftestResult& result) override {
    TestSuite& tests = suite(result.model_slug + ".selftest");
    if (!result.measures_noise) add_once("judged", judged_by_ulp(), tests);
    if (result.shape != run::ReplayShape::kRecorded) {
      const bool parallel = result.shape == run::ReplayShape::kParallel;
      add_once(parallel ? "parallel" : "batch", shape_notice(result.shape), tests);
    }
    tests.cases.push_back(control_case(result));
    for (const run::FaultResult& fault : result.faults) {
      tests.cases.push_back(fault_case(result, fault));
    }
    tests.cases.front().seconds = result.seconds;
  }

  void finish(const run::Summary& summary) override {
    for (const run::Verdict& verdict : summary.verdicts) {
      TestSuite& rules = suite(verdict.model_slug + ".gate");
      for (const analysis::RuleResult& rule : verdict.gate.rules) {
        rules.cases.push_back(rule_case(verdict, rule));
      }
      add_properties(verdict, rules);
    }
    for (const std::string& path : summary.missing) {
      suite("kvtool.diff").cases.push_back(missing_case(path));
    }
    publish();
  }

  void fail(int exit_status, const std::string& message) override {
    TestCase test = passed_case("kvtool", run_.command);
    test.outcome = TestCase::Outcome::kError;
    test.type = fmt::format("exit status {}", exit_status);
    test.message = message;
    suite("kvtool").cases.push_back(std::move(test));
    publish();
  }

 private:
  TestSuite& suite(const std::string& name) {
    const auto found = std::find_if(suites_.begin(), suites_.end(),
                                    [&](const TestSuite& other) { return other.name == name; });
    if (found != suites_.end()) return *found;
    suites_.push_back({name, {}, {}});
    return suites_.back();
  }

  void publish() {
    pugi::xml_document document;
    pugi::xml_node declaration = document.append_child(pugi::node_declaration);
    declaration.append_attribute("version") = "1.0";
    declaration.append_attribute("encoding") = "UTF-8";
    pugi::xml_node root = document.append_child("testsuites");
    set(root, "name", "kvtool " + run_.command);
    set_counts(root, suites_);
    for (const TestSuite& suite : suites_) {
      pugi::xml_node node = root.append_child("testsuite");
      set(node, "name", suite.name);
      set_counts(node, {suite});
      if (!run_.created_utc.empty()) set(node, "timestamp", timestamp());
      if (!device_.empty()) set(node, "hostname", device_);
      append_properties(node, suite);
      for (const TestCase& test : suite.cases) append_case(node, test);
    }
    std::ostringstream text;
    document.save(text, "  ", pugi::format_default, pugi::encoding_utf8);
    write_(text.str());
  }

  // The schema wants a time without a zone.
  [[nodiscard]] std::string timestamp() const {
    std::string text = run_.created_utc;
    if (text.ends_with('Z')) text.pop_back();
    return text;
  }

  std::function<void(const std::string&)> write_;
  RunDescription run_;
  std::string device_;
  std::vector<TestSuite> suites_;
};

}  // namespace

std::unique_ptr<Reporter> make_junit_reporter(
    std::function<void(const std::string& document)> write) {
  return std::make_unique<JunitReporter>(std::move(write));
}

}  // namespace kvtool::report
