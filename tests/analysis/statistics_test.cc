// Table values: by hand where a closed form exists, else the binomial
// tail summed term by term and bisected.
#include "kvtool/analysis/statistics.h"

#include <gtest/gtest.h>

#include <cmath>

namespace kvtool::analysis {
namespace {

TEST(ClopperPearsonLower, IsTheRootOfAlphaWhenEveryTrialSucceeds) {
  EXPECT_NEAR(clopper_pearson_lower(1, 1).value(), 0.05, 1e-15);
  EXPECT_NEAR(clopper_pearson_lower(2, 2).value(), std::sqrt(0.05), 1e-15);
  EXPECT_NEAR(clopper_pearson_lower(722, 722).value(), std::pow(0.05, 1.0 / 722.0), 1e-15);
}

// P(X >= 1 | n, p) = 1 - (1 - p)^n = 0.05
TEST(ClopperPearsonLower, HasAClosedFormForOneSuccess) {
  EXPECT_NEAR(clopper_pearson_lower(1, 10).value(), 1.0 - std::pow(0.95, 0.1), 1e-12);
  EXPECT_NEAR(clopper_pearson_lower(1, 100000).value(), 1.0 - std::pow(0.95, 1e-5), 1e-12);
}

// P(X >= n - 1 | n, p) = n p^(n-1) - (n - 1) p^n, checked at the bound itself.
TEST(ClopperPearsonLower, SolvesTheBinomialTail) {
  for (const double n : {2.0, 5.0, 20.0, 300.0}) {
    const double p =
        clopper_pearson_lower(static_cast<std::uint64_t>(n) - 1, static_cast<std::uint64_t>(n))
            .value();
    EXPECT_NEAR(n * std::pow(p, n - 1.0) - (n - 1.0) * std::pow(p, n), 0.05, 1e-10) << n;
  }
}

TEST(ClopperPearsonLower, GivesTableValues) {
  EXPECT_NEAR(clopper_pearson_lower(5, 10).value(), 0.22244110100811554, 1e-12);
  EXPECT_NEAR(clopper_pearson_lower(9, 10).value(), 0.6058366975634784, 1e-12);
  EXPECT_NEAR(clopper_pearson_lower(95, 100).value(), 0.8977466223567234, 1e-11);
  EXPECT_NEAR(clopper_pearson_lower(1014, 1024).value(), 0.983491641698906, 1e-10);
}

TEST(ClopperPearsonLower, FollowsTheConfidence) {
  EXPECT_NEAR(clopper_pearson_lower(4, 4, 0.99).value(), std::pow(0.01, 0.25), 1e-15);
  EXPECT_LT(clopper_pearson_lower(8, 10, 0.99), clopper_pearson_lower(8, 10, 0.95));
}

TEST(ClopperPearsonLower, IsZeroWithoutSuccessAndNothingWithoutTrial) {
  EXPECT_EQ(clopper_pearson_lower(0, 10), 0.0);
  EXPECT_FALSE(clopper_pearson_lower(0, 0).has_value());
}

TEST(ClopperPearsonLower, StaysBelowTheRateForManyTrials) {
  const double bound = clopper_pearson_lower(9'980'000, 10'000'000).value();
  // The normal approximation: 0.998 - 1.6449 sqrt(0.998 * 0.002 / 1e7).
  EXPECT_NEAR(bound, 0.998 - 2.3239e-5, 1e-6);
}

TEST(Quantile, IsTheNearestRank) {
  std::vector<double> values{30.0, 10.0, 40.0, 20.0};
  EXPECT_EQ(quantile(values, 0.0), 10.0);
  EXPECT_EQ(quantile(values, 0.25), 10.0);
  EXPECT_EQ(quantile(values, 0.26), 20.0);
  EXPECT_EQ(quantile(values, 0.5), 20.0) << "the lower median";
  EXPECT_EQ(quantile(values, 0.99), 40.0);
  EXPECT_EQ(quantile(values, 1.0), 40.0);
}

TEST(Quantile, DoesNotStumbleOverBinaryFractions) {
  std::vector<double> values(100);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<double>(i + 1);
  EXPECT_EQ(quantile(values, 0.07), 7.0);  // 0.07 * 100 is 7.000000000000001
  EXPECT_EQ(quantile(values, 0.99), 99.0);
}

TEST(Quantile, OfOneValueIsThatValueAndOfNoneNothing) {
  std::vector<double> one{3.0};
  EXPECT_EQ(quantile(one, 0.01), 3.0);
  std::vector<double> none;
  EXPECT_FALSE(quantile(none, 0.5).has_value());
}

}  // namespace
}  // namespace kvtool::analysis
