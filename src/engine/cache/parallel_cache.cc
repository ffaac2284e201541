#include "engine/cache/parallel_cache.h"

#include <vector>

#include "engine/cache/contiguous_cache.h"
#include "engine/cache/selection/key_selector.h"
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

// What a query of the call sees of what `cache` holds.
AttentionParams params_for(const KvCache& cache, const AttentionCall& call) {
  const KeySelector* selector = cache.selector();
  return selector == nullptr ? params_of(call) : selector->narrowed(call);
}

bool is_finite(const LayerKv& kv) {
  const auto of = [](const at::Tensor& rows) { return rows.to(at::kFloat).isfinite().all(); };
  return of(kv.k).logical_and(of(kv.v)).item<bool>();
}

// Query i stands behind `past` positions of `seen` and the i queries before it, and sees `seen`
// there and row i of `own` at its position.
at::Tensor attend_apart(const at::Tensor& q, const LayerKv& seen, const LayerKv& own,
                        const AttentionParams& params) {
  const std::int64_t past = seen.k.size(2) - q.size(2);
  std::vector<at::Tensor> outputs;
  for (std::int64_t query = 0; query < q.size(2); ++query) {
    const LayerKv before = part_of(seen, 0, past + query);
    const LayerKv its_own = part_of(own, query, 1);
    outputs.push_back(causal_attention(q.narrow(2, query, 1), at::cat({before.k, its_own.k}, 2),
                                       at::cat({before.v, its_own.v}, 2), params, std::nullopt));
  }
  return at::cat(outputs, 2);
}

}  // namespace

ParallelRow::ParallelRow(const RowLayout& layout, std::span<const std::int32_t> prompt,
                         std::int64_t steps, at::Device device, const CacheMaker& make_cache)
    : shape({prompt}, static_cast<std::int64_t>(prompt.size()),
            static_cast<std::int64_t>(prompt.size()) + steps),
      policy(make_cache(layout, shape, device)),
      cache(policy.get()) {
  const std::optional<SlotRange> settled = policy->settled(shape.capacity());
  if (!settled) {
    throw_usage(
        "this cache changes rows after it has written them, so a parallel replay cannot say what "
        "each step saw: replay step by step");
  }
  if (settled->count == 0) return;
  unsettled = std::make_unique<ContiguousCache>(layout, shape, device);
  cache = unsettled.get();
}

void ParallelRow::read_final(std::int64_t layer, const LayerKv& kv) const {
  const std::int64_t count = kv.k.size(1);
  cache->read({layer, 0, {0, count}}, kv);
  const SlotRange settled = *policy->settled(count);
  if (settled.count == 0) return;
  const LayerKv rows = positions_of(kv, settled.first, settled.count);
  const LayerKv old = policy->as_settled(layer, rows);
  rows.k.copy_(old.k);
  rows.v.copy_(old.v);
}

cache::CacheUse ParallelRow::use() const {
  cache::CacheUse use = cache->use();
  if (!unsettled) return use;
  cache::CacheUse more = policy->use();
  more.logical_bytes = 0;
  more.applied_rows = settled_rows;
  use += more;
  return use;
}

ParallelCache::ParallelCache(const RowLayout& layout)
    : layout_(layout), filled_(layout.num_layers()) {}

void ParallelCache::begin(std::span<const ParallelPiece> pieces, const at::Tensor& own_rows,
                          Queries queries) {
  pieces_ = pieces;
  own_rows_ = own_rows;
  queries_ = queries;
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
  const LayerKv made{call.k, call.v};
  for (const ParallelPiece& piece : pieces_) {
    const KvCache& cache = *piece.row->cache;
    if (piece.prompt > 0) {
      const LayerKv own = cache.as_kept({call.layer, 0, {0, piece.prompt}},
                                        part_of(made, piece.offset, piece.prompt));
      deliver(call.layer, piece.offset, own);
      put(piece.offset, attend_prompt(call, piece, own));
    }
    if (piece.steps > 0) {
      // Behind the prompt, which says the scales of a row.
      const std::int64_t offset = piece.offset + piece.prompt;
      const std::int64_t past = piece.row->shape.padded_length() + piece.first_step;
      const LayerKv own =
          cache.as_kept({call.layer, 0, {past, piece.steps}}, part_of(made, offset, piece.steps));
      deliver(call.layer, offset, own);
      put(offset, attend_steps(call, piece, own));
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
                          params_for(*piece.row->policy, call), std::nullopt);
}

at::Tensor ParallelCache::attend_steps(const AttentionCall& call, const ParallelPiece& piece,
                                       const LayerKv& own) {
  ParallelRow& row = *piece.row;
  const std::int64_t past = row.shape.padded_length() + piece.first_step;
  const std::int64_t end = past + piece.steps;
  if (row.keeps_own_steps) {
    row.cache->write({call.layer, 0, {past, piece.steps}}, without_batch(own));
  }
  const LayerKv rows = layout_.empty_rows(call.layer, end, call.q.device());
  row.cache->read({call.layer, 0, {0, end}}, rows);
  const SlotRange settled = *row.policy->settled(end);
  if (settled.count == 0) return attend_some(call, piece, {0, piece.steps}, with_batch(rows), own);
  const LayerKv old =
      row.policy->as_settled(call.layer, positions_of(rows, settled.first, settled.count));
  at::Tensor output = at::empty({1, call.q.size(1), piece.steps, call.v.size(3)}, call.v.options());
  std::int64_t done = 0;  // of the settled rows
  for (std::int64_t first = 0; first < piece.steps;) {
    // Steps that see the same rows settled, together.
    const std::int64_t count = row.policy->settled(past + first + 1)->count;
    std::int64_t last = first + 1;
    while (last < piece.steps && row.policy->settled(past + last + 1)->count == count) ++last;
    const LayerKv more = positions_of(old, done, count - done);
    const LayerKv target = positions_of(rows, settled.first + done, count - done);
    target.k.copy_(more.k);
    target.v.copy_(more.v);
    done = count;
    const LayerKv seen = with_batch(positions_of(rows, 0, past + last));
    output.narrow(2, first, last - first)
        .copy_(attend_some(call, piece, {first, last - first}, seen, own));
    first = last;
  }
  if (call.layer == 0) {
    row.settled_rows = static_cast<std::uint64_t>(done * row.policy->settled_layers());
  }
  return output;
}

at::Tensor ParallelCache::attend_some(const AttentionCall& call, const ParallelPiece& piece,
                                      SlotRange steps, const LayerKv& rows, const LayerKv& own) {
  const at::Tensor q = call.q.narrow(2, piece.offset + piece.prompt + steps.first, steps.count);
  const LayerKv own_rows = part_of(own, steps.first, steps.count);
  if (KeySelector* selector = piece.row->policy->selector()) {
    const std::int64_t past = rows.k.size(2) - steps.count;
    selector->count_steps(call, past, steps.count);
    if (selector->chooses(call, past + steps.count - 1)) {
      return attend_steps_singly(*selector, call, q, rows, own_rows);
    }
  }
  const AttentionParams params = params_for(*piece.row->policy, call);
  if (queries_ == Queries::kApartWhereNotFinite && !(is_finite(rows) && is_finite(own_rows))) {
    return attend_apart(q, rows, own_rows, params);
  }
  if (piece.row->keeps_own_steps) {
    return causal_attention(q, rows.k, rows.v, params, std::nullopt);
  }
  return diagonal_attention(q, rows.k, rows.v, own_rows.k, own_rows.v, params, masks_);
}

LayerKv ParallelCache::slot_before(const AttentionCall& call, const ParallelPiece& piece,
                                   std::int64_t step) {
  const ParallelRow& row = *piece.row;
  const std::int64_t prompt = row.shape.padded_length();
  const std::int64_t slot = prompt + step;
  // What the pass itself makes of the slots before is not there yet. First the prompt, which
  // says the scales of a row.
  const auto write = [&](std::int64_t offset, SlotRange slots) {
    const LayerRows where{call.layer, 0, slots};
    row.cache->write(where, without_batch(row.cache->as_kept(
                                where, part_of({call.k, call.v}, offset, slots.count))));
  };
  if (piece.prompt > 0 && row.keeps_own_prompt) write(piece.offset, {0, piece.prompt});
  if (step > piece.first_step && row.keeps_own_steps) {
    write(piece.offset + piece.prompt, {prompt + piece.first_step, step - piece.first_step});
  }
  LayerKv rows = layout_.empty_rows(call.layer, slot, call.k.device());
  row.cache->read({call.layer, 0, {0, slot}}, rows);
  const SlotRange settled = *row.policy->settled(slot + 1);
  if (settled.count > 0 && settled.end() == slot) {
    rows = row.policy->as_settled(call.layer, positions_of(rows, settled.first, settled.count));
  }
  return with_batch(positions_of(rows, rows.k.size(1) - 1, 1));
}

void ParallelCache::deliver(std::int64_t layer, std::int64_t offset, const LayerKv& own) const {
  const at::Tensor deltas = own_rows_.narrow(0, offset, own.k.size(2));
  const LayerKv rows = layout_.layer_rows(deltas, layer);
  rows.k.copy_(own.k.squeeze(0));
  rows.v.copy_(own.v.squeeze(0));
}

}  // namespace kvtool::engine
