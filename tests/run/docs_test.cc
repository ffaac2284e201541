// The tables of faults and of calibrated figures in docs/gates.md are those of the code; that of
// faults says which bound of 16bit-cross each breaks.
#include <gtest/gtest.h>

#include <map>

#include "kvtool/analysis/gate.h"
#include "kvtool/run/calibration.h"
#include "kvtool/run/faults.h"
#include "support/markdown_table.h"

namespace kvtool::run {
namespace {

const std::filesystem::path kPage = std::filesystem::path(KVTOOL_DOCS) / "gates.md";
constexpr std::string_view kGate = "16bit-cross";

// ---- Faults ------------------------------------------------------------------------

MarkdownTable fault_table() { return read_table(kPage, kGate, "fault"); }

TEST(FaultDocs, TableNamesEveryFault) {
  std::vector<std::string> expected;
  for (const FaultInfo& info : kFaults) expected.push_back("`" + std::string(info.name) + "`");
  EXPECT_EQ(fault_table().cells("fault"), expected);
}

// How the gate judges a value of one figure of K or V.
bool passes(const std::string& figure, double value) {
  const analysis::Gate gate = analysis::GateSpec::builtin(kGate).resolve({});
  const std::string name = replaced(figure, "kv.*", "kv.key");
  bool is_judged = false;
  bool passed = true;
  for (const analysis::RuleResult& result : analysis::evaluate(gate, {{name, value}}).rules) {
    if (result.matched == 0) continue;
    is_judged = true;
    passed = passed && result.passed;
  }
  EXPECT_TRUE(is_judged) << "no rule for " << figure;
  return passed;
}

TEST(FaultDocs, BoundsAreThoseOfTheGate) {
  const MarkdownTable table = fault_table();
  const auto figures = table.cells("figure that fails");
  const auto values = table.cells("its value");
  const auto bounds = table.cells("bound");
  for (std::size_t i = 0; i < table.rows.size(); ++i) {
    const std::string figure = code_spans(figures.at(i)).at(0);
    const double bound = parse_number(bounds.at(i)).value();
    EXPECT_TRUE(passes(figure, bound)) << figure;
    EXPECT_FALSE(passes(figure, bound * (1.0 + 1e-9) + 1e-300)) << figure;
    EXPECT_FALSE(passes(figure, parse_number(values.at(i)).value())) << figure;
  }
}

// ---- Calibration -------------------------------------------------------------------

// What a gate allows of each figure where nothing differed.
std::map<std::string, analysis::GateRule> least_rules(bool with_sample) {
  CalibrationOutcome outcome;
  for (const std::string& name : analysis::known_figures()) {
    if (name.ends_with(".logits.noise") && !with_sample) continue;
    outcome.run.figures[name] = name.find("agreement") != std::string::npos ? 1.0 : 0.0;
  }
  outcome.run.figures["inject.tokens.compared"] = 1000.0;  // nothing differed in many steps
  std::map<std::string, analysis::GateRule> rules;
  for (const CalibratedRule& rule : calibrate_gate({outcome}, 1.0).rules) {
    rules.emplace(rule.rule.figure, rule.rule);
  }
  return rules;
}

std::vector<std::string> calibrated_names(const std::string& cell_name) {
  std::vector<std::string> names;
  for (const char* kind : {"key", "value"}) {
    const std::string name = replaced(cell_name, "KIND", kind);
    if (name == cell_name && !names.empty()) continue;  // neither K nor V
    if (name.starts_with("forced.")) return {name};
    for (const char* stretch : {"prefill.", "inject.", "forced."}) names.push_back(stretch + name);
  }
  return names;
}

void expect_least_rules(bool with_sample) {
  const std::string other = with_sample ? "without a sample" : "with a sample";
  std::map<std::string, analysis::GateRule> rules = least_rules(with_sample);
  for (const auto& row : read_table(kPage, "Calibration", "figures").rows) {
    if (row.at(1) == other) continue;
    const double ideal = parse_number(row.at(2)).value();
    const double least = parse_number(row.at(3)).value();
    for (const std::string& cell_name : code_spans(row.at(0))) {
      for (const std::string& name : calibrated_names(cell_name)) {
        const auto rule = rules.extract(name);
        ASSERT_FALSE(rule.empty()) << name << " is not calibrated";
        const auto& bound = ideal == 0.0 ? rule.mapped().max : rule.mapped().min;
        ASSERT_TRUE(bound.has_value()) << name;
        EXPECT_DOUBLE_EQ(*bound, ideal == 0.0 ? least : 1.0 - least) << name;
      }
    }
  }
  for (const auto& [name, unused] : rules) ADD_FAILURE() << name << " is not in the table";
}

TEST(CalibrationDocs, LeastAllowancesAreThoseOfTheTable) {
  expect_least_rules(true);
  expect_least_rules(false);
}

}  // namespace
}  // namespace kvtool::run
