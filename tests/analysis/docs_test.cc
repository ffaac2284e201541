// The tables of docs/metrics.md and docs/gates.md are those of the code, both ways: a figure, a
// gate or a bound that stands in one place only fails.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "kvtool/analysis/gate.h"
#include "support/markdown_table.h"

namespace kvtool::analysis {
namespace {

const std::filesystem::path kDocs = KVTOOL_DOCS;
const std::vector<std::string> kStretches = {"prefill", "inject", "forced", "free"};
const std::vector<std::string> kModes = {"inject", "forced", "free"};

using Names = std::vector<std::string>;

// Every name with every value in the place of `word`; names without it stay.
Names expanded(const Names& names, std::string_view word, const Names& values) {
  Names result;
  for (const std::string& name : names) {
    if (name.find(word) == std::string::npos) {
      result.push_back(name);
      continue;
    }
    for (const std::string& value : values) result.push_back(replaced(name, word, value));
  }
  return result;
}

// "`kl.mean`, `.p99`" as {"kl.mean", "kl.p99"}: a dot in front stands for what is before the
// first name's last dot.
Names written_out(std::string_view cell) {
  Names names = code_spans(cell);
  for (std::string& name : names) {
    if (name.starts_with('.')) name = names.front().substr(0, names.front().rfind('.')) + name;
  }
  return names;
}

// ---- Figures -----------------------------------------------------------------------

TEST(AnalysisDocs, FigureNamesAreThoseThatRunsHave) {
  Names documented;
  const MarkdownTable table = read_table(kDocs / "metrics.md", "Figure names", "name");
  for (const std::string& cell : table.cells("name")) {
    Names names = written_out(cell);
    names = expanded(names, "STRETCH", kStretches);
    names = expanded(names, "MODE", kModes);
    names = expanded(names, "KIND", {"key", "value"});
    documented.insert(documented.end(), names.begin(), names.end());
  }
  std::sort(documented.begin(), documented.end());
  EXPECT_EQ(documented, known_figures());
}

TEST(AnalysisDocs, FindingsAreThoseOfVerdicts) {
  Names expected;
  for (const Finding finding : {Finding::kReproducible, Finding::kPrefill, Finding::kCompute,
                                Finding::kCache, Finding::kFeedback, Finding::kUndetermined}) {
    EXPECT_EQ(static_cast<std::size_t>(finding), expected.size()) << "one is left out";
    expected.push_back("`" + std::string(finding_name(finding)) + "`");
  }
  EXPECT_EQ(read_table(kDocs / "gates.md", "What the verdict says", "prefill").cells("finding"),
            expected);
  EXPECT_EQ(read_table(kDocs / "metrics.md", "Findings", "finding").cells("finding"), expected);
}

// ---- Gates -------------------------------------------------------------------------

TEST(AnalysisDocs, GatesAreTheBuiltIn) {
  Names documented;
  for (const std::string& cell :
       read_table(kDocs / "gates.md", "Which gate?", "gate").cells("gate")) {
    // "a file from `kvtool calibrate`" is none.
    if (cell.starts_with('`')) documented.push_back(code_spans(cell).front());
  }
  const auto names = builtin_gate_names();
  EXPECT_EQ(documented, Names(names.begin(), names.end()));
}

// Both empty: no rule may judge the figure.
struct Bound {
  std::optional<double> min;
  std::optional<double> max;

  friend bool operator==(const Bound&, const Bound&) = default;
};

void PrintTo(const Bound& bound, std::ostream* stream) {
  if (bound.min) *stream << "at least " << *bound.min;
  if (bound.max) *stream << "at most " << *bound.max;
  if (!bound.min && !bound.max) *stream << "none";
}

// "0.1", "at most 0.1", "at least 1", "none"; nothing for an empty cell.
std::optional<Bound> parse_bound(std::string_view cell) {
  constexpr std::string_view kAtLeast = "at least ";
  constexpr std::string_view kAtMost = "at most ";
  if (cell.empty()) return std::nullopt;
  if (cell == "none") return Bound{};
  if (cell.starts_with(kAtMost)) cell.remove_prefix(kAtMost.size());
  const bool is_min = cell.starts_with(kAtLeast);
  if (is_min) cell.remove_prefix(kAtLeast.size());
  const std::optional<double> number = parse_number(cell);
  EXPECT_TRUE(number.has_value()) << "no bound: " << cell;
  return is_min ? Bound{number, std::nullopt} : Bound{std::nullopt, number};
}

// What a gate's table says of single figures.
using Bounds = std::map<std::string, Bound>;

// `figure` is of one stretch or of several ("*.kl.p99"), of K, V or both ("kv.*").
void add_bound(const Names& figures, const Names& stretches, std::string_view cell,
               Bounds& bounds) {
  const std::optional<Bound> bound = parse_bound(cell);
  if (!bound) return;
  for (std::string figure : figures) {
    const bool has_stretch =
        std::any_of(kStretches.begin(), kStretches.end(),
                    [&](const std::string& stretch) { return figure.starts_with(stretch + "."); });
    if (!has_stretch) figure = "STRETCH." + figure.substr(figure.starts_with("*.") ? 2 : 0);
    const Names names = expanded({figure}, "STRETCH", stretches);
    for (const std::string& name : expanded(names, "kv.*", {"kv.key", "kv.value"})) {
      EXPECT_TRUE(bounds.emplace(name, *bound).second) << name << " stands twice";
    }
  }
}

// A column of bounds is headed "bound". The stretch is that of the figure's name, or of the
// column before ("inject", "prefill", "forced": the last one's bound holds for free, too), or
// all. "bound (forced and free)": "A (B)" has A for prefill and inject.
void add_row(const MarkdownTable& table, const std::vector<std::string>& row, Bounds& bounds) {
  const Names figures = written_out(row.front());
  for (std::size_t i = 1; i < row.size(); ++i) {
    if (table.columns[i] == "bound (forced and free)") {
      const auto bracket = row[i].find(" (");
      add_bound(figures, {"prefill", "inject"}, row[i].substr(0, bracket), bounds);
      add_bound(figures, {"forced", "free"},
                row[i].substr(bracket + 2, row[i].size() - bracket - 3), bounds);
    } else if (table.columns[i] == "bound") {
      const std::string& before = table.columns[i - 1];
      const bool is_stretch =
          std::find(kStretches.begin(), kStretches.end(), before) != kStretches.end();
      Names stretches = is_stretch ? Names{before} : kStretches;
      if (before == "forced") stretches.push_back("free");
      add_bound(figures, stretches, row[i], bounds);
    }
  }
}

Bounds documented_bounds(std::string_view gate) {
  const MarkdownTable table = read_table(kDocs / "gates.md", gate, "figure");
  Bounds bounds;
  for (const auto& row : table.rows) add_row(table, row, bounds);
  return bounds;
}

// The rules that judge a figure.
std::vector<GateRule> rules_for(const Gate& gate, const std::string& figure) {
  std::vector<GateRule> rules;
  for (const RuleResult& result : evaluate(gate, {{figure, 0.0}}).rules) {
    if (result.matched > 0) rules.push_back(result.rule);
  }
  return rules;
}

// Recordings without a sample of logits, with one, and with one of a mixture of experts.
std::vector<GateContext> documented_contexts() {
  std::vector<GateContext> contexts(3);
  contexts[1].measures_noise = contexts[2].measures_noise = true;
  contexts[2].routed_layers = {true};
  return contexts;
}

bool is_inherited(const GateRule& rule, const GateContext& context) {
  const std::vector<GateRule> inherited = GateSpec().resolve(context).rules;
  return std::any_of(inherited.begin(), inherited.end(), [&](const GateRule& each) {
    return each.figure == rule.figure && each.min == rule.min && each.max == rule.max;
  });
}

// Those of which a gate's own table tells all; what is judged in the place of some figures for a
// mixture of experts has a table for all gates.
std::vector<GateContext> dense_contexts() {
  std::vector<GateContext> contexts = documented_contexts();
  contexts.pop_back();
  return contexts;
}

class GateDocs : public testing::TestWithParam<std::string_view> {
 protected:
  static Gate gate(const GateContext& context) {
    return GateSpec::builtin(GetParam()).resolve(context);
  }
  Bounds documented_ = documented_bounds(GetParam());
};

INSTANTIATE_TEST_SUITE_P(
    Analysis, GateDocs, testing::ValuesIn(builtin_gate_names().begin(), builtin_gate_names().end()),
    [](const auto& gate) { return replaced(std::string(gate.param), "-", "_"); });

// Some figures are judged in some contexts only.
TEST_P(GateDocs, DocumentedBoundsHold) {
  EXPECT_FALSE(documented_.empty());
  for (const auto& [figure, bound] : documented_) {
    std::size_t contexts = 0;
    for (const GateContext& context : dense_contexts()) {
      const std::vector<GateRule> rules = rules_for(gate(context), figure);
      contexts += rules.empty() ? 0 : 1;
      for (const GateRule& rule : rules) EXPECT_EQ((Bound{rule.min, rule.max}), bound) << figure;
      EXPECT_LE(rules.size(), 1U) << figure;
    }
    EXPECT_EQ(contexts > 0, bound != Bound{}) << figure;
  }
}

TEST_P(GateDocs, EveryRuleIsDocumented) {
  for (const GateContext& context : dense_contexts()) {
    std::set<std::string> judging;
    for (const auto& [figure, unused] : documented_) {
      for (const GateRule& rule : rules_for(gate(context), figure)) judging.insert(rule.figure);
    }
    for (const GateRule& rule : gate(context).rules) {
      EXPECT_TRUE(is_inherited(rule, context) || judging.contains(rule.figure)) << rule.figure;
    }
  }
}

TEST_P(GateDocs, DroppedRulesAreDocumented) {
  for (const GateContext& context : documented_contexts()) {
    const Gate resolved = gate(context);
    for (const GateRule& rule : GateSpec().resolve(context).rules) {
      const bool is_kept =
          std::any_of(resolved.rules.begin(), resolved.rules.end(),
                      [&](const GateRule& each) { return each.figure == rule.figure; });
      std::string figure = replaced(rule.figure, "kv.*", "kv.key");
      if (figure.starts_with('*')) figure = "inject" + figure.substr(1);
      EXPECT_TRUE(is_kept || documented_.contains(figure)) << rule.figure;
    }
  }
}

// What the table makes of the rules of a dense model.
Bounds with_experts(const Bounds& dense) {
  constexpr std::string_view kKv = "kv.KIND";
  const MarkdownTable table =
      read_table(kDocs / "gates.md", "What every gate holds", "of a dense model");
  Bounds bounds;
  for (const auto& [figure, bound] : dense) {
    std::string name = figure;
    for (const auto& row : table.rows) {
      if (row[0].empty()) continue;
      const std::string usual = code_spans(row[0]).at(0).substr(kKv.size());
      if (!figure.ends_with(usual)) continue;
      name = figure.substr(0, figure.size() - usual.size()) +
             code_spans(row[1]).at(0).substr(kKv.size());
    }
    bounds.emplace(name, bound);
  }
  for (const auto& row : table.rows) {
    if (!row[0].empty()) continue;
    const std::string text = row[1].substr(row[1].find(", ") + 2);
    bounds.emplace(code_spans(row[1]).at(0), parse_bound(text).value());
  }
  return bounds;
}

// The rules of a dense model with the documented names in the place of others, and one more.
TEST_P(GateDocs, RulesOfAMixtureOfExpertsAreDocumented) {
  GateContext context = documented_contexts().back();
  std::map<std::string, Bound> actual;
  for (const GateRule& rule : gate(context).rules) {
    if (!is_inherited(rule, context)) actual.emplace(rule.figure, Bound{rule.min, rule.max});
  }
  context.routed_layers.clear();
  std::map<std::string, Bound> expected;
  for (const GateRule& rule : gate(context).rules) {
    if (is_inherited(rule, context)) continue;
    expected.emplace(rule.figure, Bound{rule.min, rule.max});
  }
  EXPECT_EQ(actual, GetParam() == "same-device" ? expected : with_experts(expected));
}

TEST(AnalysisDocs, InheritedRulesAreDocumented) {
  const MarkdownTable table = read_table(kDocs / "gates.md", "What every gate holds", "figure");
  const Names columns = {"without a sample", "with a sample", "with a sample, mixture of experts"};
  for (std::size_t i = 0; i < columns.size(); ++i) {
    const Names cells = table.cells(columns[i]);
    std::map<std::string, Bound> documented;
    for (std::size_t row = 0; row < cells.size(); ++row) {
      if (cells[row].empty()) continue;
      for (const std::string& figure : code_spans(table.rows[row].front())) {
        documented.emplace(figure, parse_bound(cells[row]).value_or(Bound{}));
      }
    }
    std::map<std::string, Bound> expected;
    for (const GateRule& rule : GateSpec().resolve(documented_contexts()[i]).rules) {
      expected.emplace(rule.figure, Bound{rule.min, rule.max});
    }
    EXPECT_EQ(documented, expected) << columns[i];
  }
}

TEST(AnalysisDocs, ExampleGatesAreGates) {
  std::size_t files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(kDocs / "../configs/gates")) {
    std::ifstream file(entry.path());
    const auto document = nlohmann::json::parse(file, nullptr, true, /*ignore_comments=*/true);
    const GateSpec spec = GateSpec::parse(document, entry.path().string());
    EXPECT_GT(spec.resolve({}).rules.size(), 20U) << entry.path() << ": on top of a built-in gate";
    ++files;
  }
  EXPECT_GE(files, 2U);
}

// The successors of what a gate file held before there was a sample.
TEST(AnalysisDocs, SuccessorsOfRulesAreKnown) {
  const MarkdownTable table = read_table(kDocs / "gates.md", "Moving a gate file", "before");
  EXPECT_GE(table.rows.size(), 3U);
  for (const std::string& cell : table.cells("successor")) {
    for (const std::string& name : code_spans(cell)) {
      const auto is_named = [&](const std::string& figure) { return figure.ends_with(name); };
      EXPECT_TRUE(name == "noise_z" ||
                  std::any_of(known_figures().begin(), known_figures().end(), is_named))
          << name;
    }
  }
}

}  // namespace
}  // namespace kvtool::analysis
