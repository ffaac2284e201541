#include "engine/cache/parallel_cache.h"

#include "engine/cache/padded_attention.h"
#include "kvtool/base/error.h"

namespace kvtool::engine {
namespace {

// Positions [first, first + count) of [1, heads, positions, dim].
LayerKv part_of(const LayerKv& kv, std::int64_t first, std::int64_t count) {
  return {kv.k.narrow(2, first, count), kv.v.narrow(2, first, count)};
}

// Without and with the batch dimension of 1.
LayerKv without_batch(const LayerKv& kv) { return {kv.k.squeeze(0), kv.v.squeeze(0)}; }
LayerKv with_batch(const LayerKv& kv) { return {kv.k.unsqueeze(0), kv.v.unsqueeze(0)}; }

}  // namespace

ParallelRow::ParallelRow(const RowLayout& layout, std::span<const std::int32_t> prompt,
                         std::int64_t steps, at::Device device, const CacheMaker& make_cache)
    : shape({prompt}, static_cast<std::int64_t>(prompt.size()),
            static_cast<std::int64_t>(prompt.size()) + steps),
      cache(make_cache(layout, shape, device)) {
  if (cache->is_append_only()) return;
  throw_usage(
      "this cache changes rows after it has written them, so a parallel replay cannot say what "
      "each step saw: replay step by step");
}

ParallelCache::ParallelCache(const RowLayout& layout)
    : layout_(layout), filled_(layout.num_layers()) {}

void ParallelCache::begin(std::span<const ParallelPiece> pieces, const at::Tensor& own_rows) {
  pieces_ = pieces;
  own_rows_ = own_rows;
  masks_.clear();
  filled_.begin();
}

void ParallelCache::end() const { filled_.end(); }

at::Tensor ParallelCache::attend(const AttentionCall& call) {
  filled_.mark(call.layer);
  at::Tensor output =
      at::empty({1, call.q.size(2), call.q.size(1), call.v.size(3)}, call.v.options());
  const auto put = [&output](std::int64_t first, const at::Tensor& attended) {
    output.narrow(1, first, attended.size(2)).copy_(attended.transpose(1, 2));
  };
  for (const ParallelPiece& piece : pieces_) {
    const LayerKv own = piece.row->cache->as_kept(
        call.layer, part_of({call.k, call.v}, piece.offset, piece.tokens()));
    deliver(call, piece, own);
    if (piece.prompt > 0) {
      put(piece.offset, attend_prompt(call, piece, part_of(own, 0, piece.prompt)));
    }
    if (piece.steps > 0) {
      put(piece.offset + piece.prompt,
          attend_steps(call, piece, part_of(own, piece.prompt, piece.steps)));
    }
  }
  return output;
}

at::Tensor ParallelCache::attend_prompt(const AttentionCall& call, const ParallelPiece& piece,
                                        const LayerKv& own) {
  if (piece.row->keeps_own_prompt) {
    piece.row->cache->write({call.layer, 0, {0, piece.prompt}}, without_batch(own));
  }
  return causal_attention(call.q.narrow(2, piece.offset, piece.prompt), own.k, own.v,
                          params_of(call), std::nullopt);
}

at::Tensor ParallelCache::attend_steps(const AttentionCall& call, const ParallelPiece& piece,
                                       const LayerKv& own) {
  const at::Tensor q = call.q.narrow(2, piece.offset + piece.prompt, piece.steps);
  const std::int64_t past = piece.row->shape.padded_length() + piece.first_step;
  KvCache& cache = *piece.row->cache;
  if (piece.row->keeps_own_steps) {
    cache.write({call.layer, 0, {past, piece.steps}}, without_batch(own));
  }
  const LayerKv rows = layout_.empty_rows(call.layer, past + piece.steps, call.q.device());
  cache.read({call.layer, 0, {0, past + piece.steps}}, rows);
  const LayerKv seen = with_batch(rows);
  if (piece.row->keeps_own_steps) {
    return causal_attention(q, seen.k, seen.v, params_of(call), std::nullopt);
  }
  return diagonal_attention(q, seen.k, seen.v, own.k, own.v, params_of(call), masks_);
}

void ParallelCache::deliver(const AttentionCall& call, const ParallelPiece& piece,
                            const LayerKv& own) const {
  const at::Tensor deltas = own_rows_.narrow(0, piece.offset, piece.tokens());
  const LayerKv rows = layout_.layer_rows(deltas, call.layer);
  rows.k.copy_(own.k.squeeze(0));
  rows.v.copy_(own.v.squeeze(0));
}

}  // namespace kvtool::engine
