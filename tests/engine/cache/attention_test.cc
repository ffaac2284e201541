// causal_attention against the definition, one query and head at a time.
#include "engine/cache/attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace kvtool::engine {
namespace {

// Keys that a query at `position` sees, of [B or none, .., positions, dim].
std::vector<std::int64_t> seen_by(std::int64_t position, std::int64_t first,
                                  const AttentionParams& params) {
  std::vector<std::int64_t> seen;
  for (std::int64_t key = first; key <= position; ++key) {
    const std::int64_t distance = position - key;
    const bool in_window = params.sliding_window <= 0 || distance < params.sliding_window;
    const bool is_first =
        key < params.first_keys && (params.first_reach <= 0 || distance < params.first_reach);
    if (in_window || is_first) seen.push_back(key);
  }
  return seen;
}

// q [B, Hq, S, Dk], keys [B, Hkv, T, Dk], values [B, Hkv, T, Dv]; `first` slots
// of row b are hidden when `padding[b]` says so.
at::Tensor by_definition(const at::Tensor& q, const at::Tensor& keys, const at::Tensor& values,
                         const AttentionParams& params, const std::vector<std::int64_t>& padding) {
  const std::int64_t groups = q.size(1) / keys.size(1);
  const std::int64_t past = keys.size(2) - q.size(2);
  at::Tensor output = at::zeros({q.size(0), q.size(1), q.size(2), values.size(3)}, at::kDouble);
  for (std::int64_t b = 0; b < q.size(0); ++b) {
    for (std::int64_t h = 0; h < q.size(1); ++h) {
      for (std::int64_t i = 0; i < q.size(2); ++i) {
        const std::int64_t first = padding.empty() ? 0 : padding[static_cast<std::size_t>(b)];
        const at::Tensor seen = at::tensor(seen_by(past + i, first, params));
        const at::Tensor k = keys[b][h / groups].index_select(0, seen).to(at::kDouble);
        const at::Tensor v = values[b][h / groups].index_select(0, seen).to(at::kDouble);
        at::Tensor scores = at::mv(k, q[b][h][i].to(at::kDouble)) * params.scale;
        if (params.softcap > 0) scores = params.softcap * at::tanh(scores / params.softcap);
        at::Tensor weights = at::exp(scores);
        at::Tensor total = weights.sum();
        if (params.sinks) total = total + at::exp((*params.sinks)[h].to(at::kDouble));
        output[b][h][i] = at::mv(v.t(), weights / total);
      }
    }
  }
  return output;
}

struct Case {
  const char* name;
  std::int64_t query_heads, kv_heads, queries, positions, key_dim, value_dim;
  std::int64_t window;
  double softcap;
  bool sinks;
  std::vector<std::int64_t> padding;
  std::int64_t first_keys = 0;
  std::int64_t first_reach = 0;
};

AttentionParams params_of_case(const Case& c) {
  AttentionParams params{0.37, c.window, c.softcap, std::nullopt, c.first_keys, c.first_reach};
  if (c.sinks) params.sinks = at::randn({c.query_heads});
  return params;
}

class CausalAttention : public testing::TestWithParam<Case> {};

TEST_P(CausalAttention, EqualsItsDefinition) {
  const Case& c = GetParam();
  at::manual_seed(7);
  const std::int64_t batch = c.padding.empty() ? 2 : static_cast<std::int64_t>(c.padding.size());
  const at::Tensor q = at::randn({batch, c.query_heads, c.queries, c.key_dim});
  const at::Tensor keys = at::randn({batch, c.kv_heads, c.positions, c.key_dim});
  const at::Tensor values = at::randn({batch, c.kv_heads, c.positions, c.value_dim});
  const AttentionParams params = params_of_case(c);
  std::optional<at::Tensor> bias;
  if (!c.padding.empty()) {
    bias = at::zeros({batch, 1, 1, c.positions});
    for (std::int64_t b = 0; b < batch; ++b) {
      (*bias)[b]
          .narrow(2, 0, c.padding[static_cast<std::size_t>(b)])
          .fill_(-std::numeric_limits<float>::infinity());
    }
  }
  const at::Tensor actual = causal_attention(q, keys, values, params, bias);
  const at::Tensor expected = by_definition(q, keys, values, params, c.padding);
  ASSERT_EQ(actual.sizes(), expected.sizes());
  EXPECT_LT((actual.to(at::kDouble) - expected).abs().max().item<double>(), 2e-6);
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, CausalAttention,
    testing::Values(Case{"prefill", 4, 4, 9, 9, 8, 8, 0, 0, false, {}},
                    Case{"grouped_prefill", 6, 2, 9, 9, 8, 8, 0, 0, false, {}},
                    Case{"narrow_values", 4, 4, 9, 9, 12, 8, 0, 0, false, {}},
                    Case{"windowed_prefill", 4, 2, 20, 20, 8, 8, 5, 0, false, {}},
                    Case{"windowed_blocks", 2, 1, 600, 600, 4, 4, 70, 0, false, {}},
                    Case{"softcap_prefill", 4, 2, 300, 300, 8, 8, 0, 3.0, false, {}},
                    Case{"sinks_prefill", 4, 2, 20, 20, 8, 8, 6, 0, true, {}},
                    Case{"decode", 4, 4, 1, 17, 8, 8, 0, 0, false, {}},
                    Case{"grouped_decode", 9, 3, 1, 17, 8, 8, 0, 0, false, {}},
                    Case{"multi_query_decode", 8, 1, 1, 17, 8, 6, 0, 0, false, {}},
                    Case{"windowed_decode", 4, 2, 1, 17, 8, 8, 4, 0, false, {}},
                    Case{"softcap_decode", 4, 2, 1, 17, 8, 8, 0, 2.0, false, {}},
                    Case{"sinks_decode", 4, 2, 1, 17, 8, 8, 5, 0, true, {}},
                    Case{"padded_decode", 6, 2, 1, 17, 8, 8, 0, 0, false, {0, 3, 16}},
                    Case{"padded_windowed_decode", 6, 2, 1, 17, 8, 8, 9, 0, false, {0, 12, 3}},
                    Case{"padded_sinks_decode", 6, 2, 1, 17, 8, 8, 9, 0, true, {0, 12, 3}},
                    Case{"several_new_queries", 4, 2, 5, 17, 8, 8, 0, 0, false, {}},
                    Case{"first_keys_prefill", 4, 2, 20, 20, 8, 8, 5, 0, false, {}, 3},
                    Case{"first_keys_blocks", 2, 1, 600, 600, 4, 4, 70, 0, false, {}, 4},
                    Case{"first_keys_in_reach", 2, 1, 600, 600, 4, 4, 70, 0, false, {}, 90, 300},
                    Case{"first_keys_decode", 6, 2, 1, 17, 8, 6, 5, 0, false, {}, 3},
                    Case{"first_keys_half_in_reach", 6, 2, 1, 17, 8, 8, 5, 0, false, {}, 6, 14},
                    Case{"first_keys_out_of_reach", 6, 2, 1, 17, 8, 8, 5, 0, false, {}, 3, 9},
                    Case{"first_keys_cover", 6, 2, 1, 17, 8, 8, 5, 0, false, {}, 12, 15},
                    Case{"first_keys_with_all", 4, 2, 20, 30, 8, 8, 6, 3.0, true, {}, 3, 19}),
    [](const auto& param_info) { return param_info.param.name; });

class DiagonalAttention : public testing::TestWithParam<Case> {};

// Every step by itself: the recorded keys before it, then its own.
TEST_P(DiagonalAttention, EqualsOneStepAfterTheOther) {
  const Case& c = GetParam();
  at::manual_seed(11);
  const at::Tensor q = at::randn({1, c.query_heads, c.queries, c.key_dim});
  const at::Tensor keys = at::randn({1, c.kv_heads, c.positions, c.key_dim});
  const at::Tensor values = at::randn({1, c.kv_heads, c.positions, c.value_dim});
  const at::Tensor own_k = at::randn({1, c.kv_heads, c.queries, c.key_dim});
  const at::Tensor own_v = at::randn({1, c.kv_heads, c.queries, c.value_dim});
  const AttentionParams params = params_of_case(c);
  DiagonalMasks masks;
  const at::Tensor actual = diagonal_attention(q, keys, values, own_k, own_v, params, masks);
  for (std::int64_t i = 0; i < c.queries; ++i) {
    const std::int64_t past = c.positions - c.queries + i;
    const at::Tensor seen_k = at::cat({keys.narrow(2, 0, past), own_k.narrow(2, i, 1)}, 2);
    const at::Tensor seen_v = at::cat({values.narrow(2, 0, past), own_v.narrow(2, i, 1)}, 2);
    const at::Tensor expected = by_definition(q.narrow(2, i, 1), seen_k, seen_v, params, {});
    const at::Tensor difference = actual.narrow(2, i, 1).to(at::kDouble) - expected;
    EXPECT_LT(difference.abs().max().item<double>(), 2e-6) << i;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, DiagonalAttention,
    testing::Values(Case{"plain", 4, 4, 5, 17, 8, 8, 0, 0, false, {}},
                    Case{"grouped", 6, 2, 9, 12, 8, 8, 0, 0, false, {}},
                    Case{"one_step", 6, 2, 1, 12, 8, 8, 0, 0, false, {}},
                    Case{"narrow_values", 4, 2, 5, 17, 12, 8, 0, 0, false, {}},
                    Case{"window", 4, 2, 15, 20, 8, 8, 5, 0, false, {}},
                    Case{"window_of_one", 4, 2, 6, 9, 8, 8, 1, 0, false, {}},
                    Case{"blocks", 2, 1, 600, 610, 4, 4, 0, 0, false, {}},
                    Case{"windowed_blocks", 2, 1, 600, 610, 4, 4, 70, 0, false, {}},
                    Case{"softcap", 4, 2, 5, 17, 8, 8, 0, 3.0, false, {}},
                    Case{"sinks", 4, 2, 15, 20, 8, 8, 6, 0, true, {}},
                    Case{"first_keys", 4, 2, 15, 20, 8, 8, 6, 0, false, {}, 3},
                    Case{"first_keys_window_of_one", 4, 2, 6, 9, 8, 8, 1, 0, false, {}, 2},
                    Case{"first_keys_blocks", 2, 1, 600, 610, 4, 4, 70, 0, false, {}, 4, 400},
                    Case{"first_keys_with_all", 4, 2, 15, 20, 8, 8, 6, 3.0, true, {}, 3, 12}),
    [](const auto& param_info) { return param_info.param.name; });

}  // namespace
}  // namespace kvtool::engine
