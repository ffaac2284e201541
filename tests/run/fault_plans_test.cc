#include "run/trial/fault_plans.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "kvtool/run/faults.h"

namespace kvtool::run {
namespace {

using engine::FaultKind;
using testing::HasSubstr;
using testing::Not;

TEST(Faults, HaveOneRowForEachKind) {
  std::set<FaultKind> kinds;
  std::set<std::string_view> names;
  for (const FaultInfo& info : kFaults) {
    kinds.insert(info.kind);
    names.insert(info.name);
    EXPECT_FALSE(info.summary.empty()) << info.name;
  }
  EXPECT_EQ(kinds.size(), kFaults.size());
  EXPECT_EQ(names.size(), kFaults.size());
  // A kind that is added behind the last one lacks its row.
  EXPECT_EQ(static_cast<std::size_t>(FaultKind::kNonfinite) + 1, kFaults.size());
}

TEST(PlanFaults, PlansEveryRowOfTheTable) {
  engine::ModelInfo model;
  model.max_positions = 64;
  model.geometry = format::Geometry(
      std::vector<format::LayerGeometry>(5, {DType::kBFloat16, DType::kBFloat16, 2, 8, 8}));
  const std::vector<FaultPlan> plans = plan_faults(model, {4, 8, 8});
  ASSERT_EQ(plans.size(), kFaults.size());
  for (std::size_t i = 0; i < plans.size(); ++i) {
    EXPECT_EQ(plans[i].name, kFaults[i].name);
    EXPECT_EQ(plans[i].fault.kind, kFaults[i].kind);
    EXPECT_EQ(plans[i].unit, kFaults[i].unit);
    EXPECT_EQ(plans[i].skipped, "");
    EXPECT_THAT(plans[i].description, Not(HasSubstr("{")));
    EXPECT_THAT(plans[i].description, HasSubstr("layer 2"));
  }
  EXPECT_EQ(plans[0].description, "V x 1.01 in layer 2");
  EXPECT_EQ(plans[3].description, "K and V of the position before in layer 2, step 4 only");
}

}  // namespace
}  // namespace kvtool::run
