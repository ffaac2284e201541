#include "engine/parallel_cache.h"

namespace kvtool::engine {
namespace {

AttentionParams params_of(const AttentionCall& call) {
  return {call.scale, call.sliding_window, call.softcap, call.sinks};
}

// What a row keeps of one layer at positions [first, first + count), as [1, heads, count, dim].
struct KeptRows {
  KeptRows(const ParallelRow& row, std::int64_t layer, std::int64_t first, std::int64_t count)
      : keys(row.cache.key_rows(layer, 0, first, count).unsqueeze(0)),
        values(row.cache.value_rows(layer, 0, first, count).unsqueeze(0)) {}

  at::Tensor keys;
  at::Tensor values;
};

}  // namespace

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
  keep_own_rows(call);
  at::Tensor output =
      at::empty({1, call.q.size(2), call.q.size(1), call.v.size(3)}, call.v.options());
  const auto put = [&output](std::int64_t first, const at::Tensor& attended) {
    output.narrow(1, first, attended.size(2)).copy_(attended.transpose(1, 2));
  };
  for (const ParallelPiece& piece : pieces_) {
    if (piece.prompt > 0) put(piece.offset, attend_prompt(call, piece));
    if (piece.steps > 0) put(piece.offset + piece.prompt, attend_steps(call, piece));
  }
  return output;
}

at::Tensor ParallelCache::attend_prompt(const AttentionCall& call,
                                        const ParallelPiece& piece) const {
  const at::Tensor q = call.q.narrow(2, piece.offset, piece.prompt);
  const at::Tensor k = call.k.narrow(2, piece.offset, piece.prompt);
  const at::Tensor v = call.v.narrow(2, piece.offset, piece.prompt);
  if (piece.row->keeps_own_prompt) {
    const KeptRows kept(*piece.row, call.layer, 0, piece.prompt);
    kept.keys.copy_(k);
    kept.values.copy_(v);
  }
  return causal_attention(q, k, v, params_of(call), std::nullopt);
}

at::Tensor ParallelCache::attend_steps(const AttentionCall& call, const ParallelPiece& piece) {
  const std::int64_t first = piece.offset + piece.prompt;
  const at::Tensor q = call.q.narrow(2, first, piece.steps);
  const at::Tensor k = call.k.narrow(2, first, piece.steps);
  const at::Tensor v = call.v.narrow(2, first, piece.steps);
  const std::int64_t past = piece.row->shape.padded_length() + piece.first_step;
  const KeptRows seen(*piece.row, call.layer, 0, past + piece.steps);
  if (!piece.row->keeps_own_steps) {
    return diagonal_attention(q, seen.keys, seen.values, k, v, params_of(call), masks_);
  }
  seen.keys.narrow(2, past, piece.steps).copy_(k);
  seen.values.narrow(2, past, piece.steps).copy_(v);
  return causal_attention(q, seen.keys, seen.values, params_of(call), std::nullopt);
}

void ParallelCache::keep_own_rows(const AttentionCall& call) const {
  // [1, heads, tokens, dim] -> [tokens, heads, 1, dim], as entry_view() has it.
  const auto keep = [&](const RowLayout::Entry& entry, const at::Tensor& rows) {
    layout_.entry_view(own_rows_, entry).copy_(rows.permute({2, 1, 0, 3}));
  };
  keep(layout_.key(call.layer), call.k);
  keep(layout_.value(call.layer), call.v);
}

}  // namespace kvtool::engine
