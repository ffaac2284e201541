#include "engine/cache/attention.h"

#include <ATen/Context.h>

#include <algorithm>
#include <limits>

#include "engine/cache/selection/key_turn.h"

namespace kvtool::engine {
namespace {

// Queries per block where scores are materialised, so that memory grows with
// the sequence and not with its square.
constexpr std::int64_t kQueryBlock = 256;
// Fewer for steps in parallel: each block also computes, and masks, one score of
// every query with every own key of the block.
constexpr std::int64_t kStepBlock = 64;

// [B, Hq, S, D] -> [B, Hkv, G * S, D]: the G query heads of a KV head become
// further queries of it, so that K and V need no repetition.
at::Tensor group_queries(const at::Tensor& q, std::int64_t num_kv_heads) {
  return q.reshape({q.size(0), num_kv_heads, q.size(1) / num_kv_heads * q.size(2), q.size(3)});
}

bool needs_scores(const AttentionParams& params) {
  return params.softcap > 0.0 || params.sinks.has_value();
}

// AttentionParams::gap() of `count` queries from `first_query` on.
at::Tensor gaps_of(std::int64_t first_query, std::int64_t count, const AttentionParams& params,
                   const at::TensorOptions& options) {
  return at::arange(first_query, first_query + count, options)
      .add_(1 - params.first_keys - params.sliding_window)
      .clamp_min_(0);
}

// Softmax with the sink as one more column that receives probability and no value.
at::Tensor softmax_with_sinks(const at::Tensor& scores, const at::Tensor& sinks,
                              std::int64_t num_kv_heads) {
  // sinks [Hq] -> [1, Hkv, G, 1, 1]; scores [B, Hkv, G, S, T].
  const at::Tensor column = sinks.to(scores.scalar_type())
                                .reshape({1, num_kv_heads, -1, 1, 1})
                                .expand({scores.size(0), -1, -1, scores.size(3), 1});
  const at::Tensor all = at::softmax(at::cat({scores, column}, -1), -1);
  return all.narrow(-1, 0, scores.size(-1));
}

// In float32, [B, Hkv, G * S, T].
at::Tensor products(const at::Tensor& q, const at::Tensor& keys) {
  return at::matmul(group_queries(q, keys.size(1)), keys.transpose(2, 3)).to(at::kFloat);
}

// Attention by products() of the queries, which are `queries` of each head; scales them in place.
at::Tensor attention_of(at::Tensor products, std::int64_t queries, const at::Tensor& values,
                        const AttentionParams& params, const std::optional<at::Tensor>& mask) {
  const std::int64_t batch = products.size(0);
  const std::int64_t num_kv_heads = products.size(1);
  const std::int64_t groups = products.size(2) / queries;
  const std::int64_t positions = products.size(3);
  at::Tensor scores =
      products.mul_(params.scale).view({batch, num_kv_heads, groups, queries, positions});
  if (params.softcap > 0.0) scores.div_(params.softcap).tanh_().mul_(params.softcap);
  // mask [B or 1, 1, S or 1, T] -> [.., 1, 1, S or 1, T]
  if (mask) scores.add_(mask->unsqueeze(1));
  const at::Tensor weights = params.sinks ? softmax_with_sinks(scores, *params.sinks, num_kv_heads)
                                          : at::softmax(scores, -1);
  const at::Tensor grouped =
      weights.to(values.scalar_type()).reshape({batch, num_kv_heads, groups * queries, positions});
  return at::matmul(grouped, values).view({batch, num_kv_heads * groups, queries, values.size(3)});
}

// For the options that no fused kernel knows.
at::Tensor explicit_attention(const at::Tensor& q, const at::Tensor& keys, const at::Tensor& values,
                              const AttentionParams& params,
                              const std::optional<at::Tensor>& mask) {
  return attention_of(products(q, keys), q.size(2), values, params, mask);
}

// Queries from `first_query` on, of whose keys the first `first_keys` are turned for each of them:
// q · turned(k) is turned_back(q) · k.
at::Tensor turned_attention(const at::Tensor& q, const at::Tensor& keys, const at::Tensor& values,
                            const AttentionParams& params, const at::Tensor& mask,
                            std::int64_t first_query, std::int64_t first_keys) {
  const at::Tensor wide_keys = keys.to(at::kFloat);
  const at::Tensor scores = products(q.to(at::kFloat), wide_keys);
  const at::Tensor gaps = gaps_of(first_query, q.size(2), params, q.options().dtype(at::kLong));
  scores.narrow(3, 0, first_keys)
      .copy_(products(params.turn->queries(q, gaps), wide_keys.narrow(2, 0, first_keys)));
  return attention_of(scores, q.size(2), values, params, mask);
}

at::Tensor fused_attention(const at::Tensor& q, const at::Tensor& keys, const at::Tensor& values,
                           double scale, const std::optional<at::Tensor>& mask, bool is_causal) {
  return at::scaled_dot_product_attention(q, keys, values, mask, 0.0, is_causal, scale,
                                          q.size(1) != keys.size(1));
}

// One query a row: its keys are all visible, so the heads of a group are
// queries of the same keys and need no mask but the padding's.
at::Tensor decode_attention(const at::Tensor& q, const at::Tensor& keys, const at::Tensor& values,
                            const AttentionParams& params, const std::optional<at::Tensor>& bias) {
  if (needs_scores(params)) return explicit_attention(q, keys, values, params, bias);
  const std::int64_t num_kv_heads = keys.size(1);
  const at::Tensor grouped = group_queries(q, num_kv_heads);
  return fused_attention(grouped, keys, values, params.scale, bias, false)
      .reshape({q.size(0), q.size(1), 1, values.size(3)});
}

// Keys of a block of queries: of the first those that its window does not reach, and then all
// from `first` to before `end`.
struct BlockKeys {
  std::int64_t lead = 0;
  std::int64_t first = 0;
  std::int64_t end = 0;

  [[nodiscard]] std::int64_t size() const { return lead + end - first; }
  // Of the first keys, which come first.
  [[nodiscard]] std::int64_t first_keys(const AttentionParams& params) const {
    return lead > 0 ? lead : std::min(params.first_keys, end);
  }
};

// That queries from `first_query` on can see, all before `end`.
BlockKeys keys_before(std::int64_t end, std::int64_t first_query, const AttentionParams& params) {
  if (params.sliding_window <= 0) return {0, 0, end};
  const std::int64_t first = std::max<std::int64_t>(0, first_query - params.sliding_window + 1);
  if (params.first_keys >= first) return {0, 0, end};
  return {params.first_keys, std::min(first, end), end};
}

// Of [.., positions, dim], in their order.
at::Tensor pick(const at::Tensor& rows, const BlockKeys& keys) {
  const at::Tensor window = rows.narrow(2, keys.first, keys.end - keys.first);
  return keys.lead == 0 ? window : at::cat({rows.narrow(2, 0, keys.lead), window}, 2);
}

// Additive mask [1, 1, rows, keys.size()] of queries first_query...: -inf where the key is less
// than `nearest` positions before the query, or where no window reaches it.
at::Tensor band_mask(std::int64_t first_query, std::int64_t rows, const BlockKeys& keys,
                     std::int64_t nearest, const AttentionParams& params,
                     const at::TensorOptions& options) {
  const auto long_options = options.dtype(at::kLong);
  const at::Tensor positions = at::cat(
      {at::arange(keys.lead, long_options), at::arange(keys.first, keys.end, long_options)});
  const at::Tensor distance =
      at::arange(first_query, first_query + rows, long_options).unsqueeze(1) -
      positions.unsqueeze(0);
  at::Tensor hidden = distance.lt(nearest);
  if (params.sliding_window > 0) {
    at::Tensor out_of_reach = distance.ge(params.sliding_window);
    if (params.first_keys > 0) {
      out_of_reach.logical_and_(positions.ge(params.first_keys).unsqueeze(0));
      if (params.first_reach > 0) {
        const at::Tensor in_cache =
            params.closes_up
                ? distance - gaps_of(first_query, rows, params, long_options).unsqueeze(1)
                : distance;
        out_of_reach.logical_or_(in_cache.ge(params.first_reach));
      }
    }
    hidden.logical_or_(out_of_reach);
  }
  return at::zeros({1, 1, rows, keys.size()}, options)
      .masked_fill_(hidden.unsqueeze(0).unsqueeze(0), -std::numeric_limits<double>::infinity());
}

// As DiagonalMasks::get().
at::Tensor diagonal_mask(std::int64_t first_query, std::int64_t rows, const BlockKeys& keys,
                         const AttentionParams& params, const at::TensorOptions& options) {
  const double hidden = -std::numeric_limits<double>::infinity();
  const std::int64_t columns = keys.size();
  at::Tensor mask = at::full({1, 1, rows, columns + rows}, hidden, options);
  mask.narrow(3, 0, columns).copy_(band_mask(first_query, rows, keys, 1, params, options));
  mask.narrow(3, columns, rows).select(0, 0).select(0, 0).fill_diagonal_(0.0);
  return mask;
}

// Lets oneDNN multiply float32 matrices through bfloat16: exact, and twice as
// fast, where their elements are bfloat16 numbers. Sums stay float32.
class Bfloat16Products {
 public:
  explicit Bfloat16Products(bool wanted) : wanted_(wanted) {
    if (!wanted_) return;
    before_ =
        at::globalContext().float32Precision(at::Float32Backend::MKLDNN, at::Float32Op::MATMUL);
    set(at::Float32Precision::BF16);
  }
  ~Bfloat16Products() {
    if (wanted_) set(before_);
  }
  Bfloat16Products(const Bfloat16Products&) = delete;
  Bfloat16Products& operator=(const Bfloat16Products&) = delete;

 private:
  static void set(at::Float32Precision precision) {
    at::globalContext().setFloat32Precision(at::Float32Backend::MKLDNN, at::Float32Op::MATMUL,
                                            precision);
  }

  bool wanted_;
  at::Float32Precision before_ = at::Float32Precision::NONE;
};

// As fused_attention() for a batch of 1, out of matrix products: faster on a CPU
// for masked blocks, whose fused kernel has no product of its own for bfloat16.
// mask f32 [1, 1, G * S, T], for the queries in the order of group_queries().
at::Tensor attention_by_products(const at::Tensor& q, const at::Tensor& keys,
                                 const at::Tensor& values, double scale, const at::Tensor& mask) {
  const at::Tensor grouped = group_queries(q, keys.size(1)).squeeze(0).to(at::kFloat);
  const at::Tensor wide_keys = keys.squeeze(0).to(at::kFloat);
  at::Tensor scores;
  {
    const Bfloat16Products products(q.scalar_type() == at::kBFloat16 &&
                                    keys.scalar_type() == at::kBFloat16);
    scores = at::baddbmm(mask.squeeze(0), grouped, wide_keys.transpose(1, 2), 1.0, scale);
  }
  const at::Tensor weights = at::softmax(scores, -1).to(values.scalar_type());
  return at::bmm(weights, values.squeeze(0)).view({1, q.size(1), q.size(2), values.size(3)});
}

// Whether queries up to the last of `positions` see first keys turned.
bool turns(const AttentionParams& params, std::int64_t positions) {
  return params.turn != nullptr && params.gap(positions - 1) > 0;
}

// Several queries with a mask: block by block.
at::Tensor blockwise_attention(const at::Tensor& q, const at::Tensor& keys,
                               const at::Tensor& values, const AttentionParams& params,
                               const std::optional<at::Tensor>& bias) {
  const std::int64_t queries = q.size(2);
  const std::int64_t past = keys.size(2) - queries;
  at::Tensor output = at::empty({q.size(0), q.size(1), queries, values.size(3)}, values.options());
  for (std::int64_t begin = 0; begin < queries; begin += kQueryBlock) {
    const std::int64_t rows = std::min(kQueryBlock, queries - begin);
    const BlockKeys visible = keys_before(past + begin + rows, past + begin, params);
    at::Tensor mask = band_mask(past + begin, rows, visible, 0, params, q.options());
    if (bias) mask = mask + bias->narrow(3, visible.first, visible.size());
    const at::Tensor block_q = q.narrow(2, begin, rows);
    const at::Tensor block_k = pick(keys, visible);
    const at::Tensor block_v = pick(values, visible);
    const auto attend = [&] {
      if (turns(params, past + begin + rows)) {
        return turned_attention(block_q, block_k, block_v, params, mask, past + begin,
                                visible.first_keys(params));
      }
      if (needs_scores(params)) return explicit_attention(block_q, block_k, block_v, params, mask);
      return fused_attention(block_q, block_k, block_v, params.scale, mask, false);
    };
    output.narrow(2, begin, rows).copy_(attend());
  }
  return output;
}

// One query a row, at the last of the keys.
at::Tensor attend_last(const at::Tensor& q, const at::Tensor& keys, const at::Tensor& values,
                       const AttentionParams& params, const std::optional<at::Tensor>& bias) {
  const std::int64_t positions = keys.size(2);
  const std::int64_t reach = params.first_reach;
  const std::int64_t gap = params.gap(positions - 1);
  // Of the first keys, too, what is too far away for all of them.
  const std::int64_t far =
      params.first_keys > 0 && reach > 0 ? std::max<std::int64_t>(0, positions - gap - reach) : 0;
  const std::int64_t count = positions - far;
  AttentionParams rest = params;
  rest.first_keys = std::max<std::int64_t>(0, params.first_keys - far);
  const BlockKeys visible = keys_before(count, count - 1, rest);
  const auto visible_bias =
      bias ? std::optional(bias->narrow(3, visible.first, visible.size())) : std::nullopt;
  const at::Tensor near = keys.narrow(2, far, count);
  const bool turned = params.turn != nullptr && gap > 0 && visible.lead > 0;
  const at::Tensor seen =
      turned ? at::cat({params.turn->keys(near.narrow(2, 0, visible.lead), gap),
                        near.narrow(2, visible.first, visible.end - visible.first)},
                       2)
             : pick(near, visible);
  return decode_attention(q, seen, pick(values.narrow(2, far, count), visible), params,
                          visible_bias);
}

}  // namespace

AttentionParams simplified(const AttentionParams& params, std::int64_t positions) {
  AttentionParams simple = params;
  if (params.first_keys <= 0 || params.first_keys + params.sliding_window < positions) {
    return simple;
  }
  simple.sliding_window = params.first_reach;
  simple.first_keys = 0;
  simple.first_reach = 0;
  simple.closes_up = false;
  simple.turn = nullptr;
  return simple;
}

at::Tensor causal_attention(const at::Tensor& q, const at::Tensor& keys, const at::Tensor& values,
                            const AttentionParams& given, const std::optional<at::Tensor>& bias) {
  const std::int64_t queries = q.size(2);
  const std::int64_t positions = keys.size(2);
  const AttentionParams params = simplified(given, positions);
  const std::int64_t window = params.sliding_window;
  if (queries == 1) return attend_last(q, keys, values, params, bias);
  const bool plain_causal = queries == positions && !bias && (window <= 0 || positions <= window);
  if (plain_causal && !needs_scores(params)) {
    return fused_attention(q, keys, values, params.scale, std::nullopt, true);
  }
  return blockwise_attention(q, keys, values, params, bias);
}

const at::Tensor& DiagonalMasks::get(std::int64_t first_query, std::int64_t rows, std::int64_t lead,
                                     std::int64_t first_key, std::int64_t columns,
                                     const AttentionParams& params, std::int64_t repeats,
                                     const at::TensorOptions& options) {
  at::Tensor& mask =
      masks_[{first_query, rows, lead, first_key, columns, params.sliding_window, params.first_keys,
              params.first_reach, params.closes_up ? 1 : 0, repeats}];
  if (!mask.defined()) {
    mask = diagonal_mask(first_query, rows, {lead, first_key, first_key + columns}, params, options)
               .repeat({1, 1, repeats, 1});
  }
  return mask;
}

at::Tensor diagonal_attention(const at::Tensor& q, const at::Tensor& keys, const at::Tensor& values,
                              const at::Tensor& own_k, const at::Tensor& own_v,
                              const AttentionParams& given, DiagonalMasks& masks) {
  const AttentionParams params = simplified(given, keys.size(2));
  const std::int64_t queries = q.size(2);
  const std::int64_t past = keys.size(2) - queries;
  const bool by_products = q.is_cpu() && !needs_scores(params) && params.turn == nullptr;
  const std::int64_t groups = by_products ? q.size(1) / keys.size(1) : 1;
  const at::TensorOptions mask_options = by_products ? q.options().dtype(at::kFloat) : q.options();
  at::Tensor output = at::empty({q.size(0), q.size(1), queries, values.size(3)}, values.options());
  for (std::int64_t begin = 0; begin < queries; begin += kStepBlock) {
    const std::int64_t rows = std::min(kStepBlock, queries - begin);
    const std::int64_t first_query = past + begin;
    // Of the recorded keys those before the block's last query, then the block's own.
    const BlockKeys visible = keys_before(first_query + rows - 1, first_query, params);
    const auto joined = [&](const at::Tensor& recorded, const at::Tensor& own) {
      return at::cat({recorded.narrow(2, 0, visible.lead),
                      recorded.narrow(2, visible.first, visible.end - visible.first),
                      own.narrow(2, begin, rows)},
                     2);
    };
    const at::Tensor& mask = masks.get(first_query, rows, visible.lead, visible.first,
                                       visible.end - visible.first, params, groups, mask_options);
    const at::Tensor block_q = q.narrow(2, begin, rows);
    const at::Tensor block_k = joined(keys, own_k);
    const at::Tensor block_v = joined(values, own_v);
    const auto attend = [&] {
      if (turns(params, first_query + rows)) {
        return turned_attention(block_q, block_k, block_v, params, mask, first_query,
                                visible.first_keys(params));
      }
      if (needs_scores(params)) return explicit_attention(block_q, block_k, block_v, params, mask);
      if (by_products) return attention_by_products(block_q, block_k, block_v, params.scale, mask);
      return fused_attention(block_q, block_k, block_v, params.scale, mask, false);
    };
    output.narrow(2, begin, rows).copy_(attend());
  }
  return output;
}

}  // namespace kvtool::engine
