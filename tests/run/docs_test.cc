// The table of faults in docs/gates.md is that of the code, and says which bound of
// 16bit-cross each fault breaks.
#include <gtest/gtest.h>

#include "kvtool/analysis/gate.h"
#include "run/fault_plans.h"
#include "support/markdown_table.h"

namespace kvtool::run {
namespace {

constexpr std::string_view kGate = "16bit-cross";

MarkdownTable fault_table() {
  return read_table(std::filesystem::path(KVTOOL_DOCS) / "gates.md", kGate, "fault");
}

// A model that can have every fault.
std::vector<FaultPlan> all_faults() {
  engine::ModelInfo model;
  model.max_positions = 64;
  model.geometry = format::Geometry(
      std::vector<format::LayerGeometry>(2, {DType::kBFloat16, DType::kBFloat16, 2, 8, 8}));
  return plan_faults(model, {.step = 4, .longest_prompt = 8, .most_steps = 8});
}

TEST(FaultDocs, TableNamesEveryFault) {
  std::vector<std::string> expected;
  for (const FaultPlan& plan : all_faults()) expected.push_back("`" + plan.name + "`");
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

}  // namespace
}  // namespace kvtool::run
