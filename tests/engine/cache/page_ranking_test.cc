#include "engine/cache/selection/page_ranking.h"

#include <gtest/gtest.h>

#include <cmath>
#include <optional>
#include <string_view>

namespace kvtool::engine {
namespace {

// Of one input with two K/V heads of three query heads each.
at::Tensor shares_of(std::string_view policy, const at::Tensor& scores, double softcap = 0.0) {
  const at::Tensor q = at::zeros({1, 6, 1, 4});
  const at::Tensor kv = at::zeros({1, 2, 1, 4});
  const std::optional<at::Tensor> sinks;
  return make_page_ranking(policy)->shares(scores, {q, kv, kv, 0, 0.25, 0, softcap, sinks});
}

// exp(score · 0.25) is 1, 2 and 5, and of the other head all alike.
const at::Tensor& few_scores() {
  static const at::Tensor scores =
      at::tensor({0.0, 4 * std::log(2.0), 4 * std::log(5.0), 7.0, 7.0, 7.0}, at::kFloat)
          .view({1, 2, 3});
  return scores;
}

TEST(PageRanking, SharesAreThoseOfKeysWithSuchProducts) {
  const at::Tensor expected =
      at::tensor({1.0 / 8, 2.0 / 8, 5.0 / 8, 1.0 / 3, 1.0 / 3, 1.0 / 3}, at::kFloat)
          .view({1, 2, 3});
  for (const std::string_view policy : {"quest", "mean-key", "mean-deviation"}) {
    EXPECT_TRUE(at::allclose(shares_of(policy, few_scores()), expected, 1e-6, 1e-6));
    // As attention bounds them: 3 tanh(x / 3).
    const at::Tensor capped = few_scores().mul(0.25 / 3).tanh_().mul_(3).exp_();
    EXPECT_TRUE(at::allclose(shares_of(policy, few_scores(), 3.0),
                             capped / capped.sum(2, /*keepdim=*/true), 1e-6, 1e-6));
  }
}

// Three query heads have one share each.
TEST(PageRanking, TheMassOfAGroupIsOfAllItsHeads) {
  const at::Tensor scores = at::tensor({0.75, 1.5, 0.375, 3.0}, at::kFloat).view({1, 2, 2});
  EXPECT_TRUE(at::allclose(shares_of("mass", scores), scores / 3, 1e-6, 1e-6));
}

TEST(PageRanking, ChanceSaysNothingOfShares) {
  EXPECT_TRUE(shares_of("random", few_scores()).eq(1.0F / 3).all().item<bool>());
}

}  // namespace
}  // namespace kvtool::engine
