// The tables of docs/metrics.md and docs/gates.md are those of the code, both ways: a figure, a
// gate or a bound that stands in one place only fails.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
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

bool is_inherited(const GateRule& rule) {
  const std::vector<GateRule> inherited = GateSpec().resolve({}).rules;
  return std::any_of(inherited.begin(), inherited.end(), [&](const GateRule& each) {
    return each.figure == rule.figure && each.min == rule.min && each.max == rule.max;
  });
}

class GateDocs : public testing::TestWithParam<std::string_view> {
 protected:
  Gate gate_ = GateSpec::builtin(GetParam()).resolve({});
  Bounds documented_ = documented_bounds(GetParam());
};

INSTANTIATE_TEST_SUITE_P(
    Analysis, GateDocs, testing::ValuesIn(builtin_gate_names().begin(), builtin_gate_names().end()),
    [](const auto& gate) { return replaced(std::string(gate.param), "-", "_"); });

TEST_P(GateDocs, DocumentedBoundsHold) {
  EXPECT_FALSE(documented_.empty());
  for (const auto& [figure, bound] : documented_) {
    std::vector<Bound> judged;
    for (const GateRule& rule : rules_for(gate_, figure)) judged.push_back({rule.min, rule.max});
    const std::vector<Bound> expected =
        bound == Bound{} ? std::vector<Bound>() : std::vector<Bound>{bound};
    EXPECT_EQ(judged, expected) << figure;
  }
}

TEST_P(GateDocs, EveryRuleIsDocumented) {
  std::set<std::string> judging;
  for (const auto& [figure, unused] : documented_) {
    for (const GateRule& rule : rules_for(gate_, figure)) judging.insert(rule.figure);
  }
  for (const GateRule& rule : gate_.rules) {
    EXPECT_TRUE(is_inherited(rule) || judging.contains(rule.figure)) << rule.figure;
  }
}

TEST_P(GateDocs, DroppedRulesAreDocumented) {
  for (const GateRule& rule : GateSpec().resolve({}).rules) {
    const bool is_kept =
        std::any_of(gate_.rules.begin(), gate_.rules.end(),
                    [&](const GateRule& each) { return each.figure == rule.figure; });
    const std::string figure = "inject" + replaced(rule.figure.substr(1), "kv.*", "kv.key");
    EXPECT_TRUE(is_kept || documented_.contains(figure)) << rule.figure;
  }
}

TEST(AnalysisDocs, InheritedRulesAreDocumented) {
  const MarkdownTable table = read_table(kDocs / "gates.md", "How a gate is judged", "figure");
  std::map<std::string, Bound> documented;
  for (const auto& row : table.rows) {
    for (const std::string& figure : code_spans(row.front())) {
      documented.emplace(figure, parse_bound(row.at(1)).value_or(Bound{}));
    }
  }
  std::map<std::string, Bound> expected;
  for (const GateRule& rule : GateSpec().resolve({}).rules) {
    expected.emplace(rule.figure, Bound{rule.min, rule.max});
  }
  EXPECT_EQ(documented, expected);
}

}  // namespace
}  // namespace kvtool::analysis
