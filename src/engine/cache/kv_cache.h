// The seam between everything that runs a batch and the caches that keep its K/V.
//
// Recording, injecting, faults and both kinds of replay know a cache through KvCache
// alone. Rows go in and come out by value and never as views: a cache that keeps
// rows as integers, or in pages, has no memory that a view of a row could name.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "engine/attention_op.h"
#include "engine/batch_shape.h"
#include "engine/row_layout.h"
#include "kvtool/cache/cache_use.h"
#include "kvtool/format/row.h"

namespace kvtool::engine {

class KeySelector;

// Slots [first, first + count) of every row of the batch.
struct SlotRange {
  std::int64_t first = 0;
  std::int64_t count = 0;

  [[nodiscard]] std::int64_t end() const { return first + count; }
};

// Some slots of one row in one layer.
struct LayerRows {
  std::int64_t layer = 0;
  std::int64_t row = 0;
  SlotRange slots;
};

// What read() says after attend() or write() is what the cache made of a row, and
// that is what a query sees, what is recorded and what is compared. So to inject
// through a cache that rounds means "the reference, as this cache would keep it".
//
// Threads: a pass and everything that writes belong to one thread at a time. Rows of slots
// that are not written at the same time may be read on another.
class KvCache : public CachePolicy {
 public:
  // For messages: "the cache int8" where it was told the spec that made it.
  [[nodiscard]] std::string name() const {
    return spec_.empty() ? "the cache" : "the cache " + spec_;
  }
  void set_spec(std::string spec) { spec_ = std::move(spec); }

  // It holds nothing any more, for a batch of as many rows and positions, whose prompts may have
  // other lengths: what it gives and counts from now on is that of a new cache. Its memory stays.
  // `shape` outlives it, or until the next clear(); that of the batch before may be gone. Error
  // kMisuse for a batch of another size.
  virtual void clear(const BatchShape& shape) = 0;

  // One forward pass over `slots` begins. A pass may call attend() of a layer more than
  // once; the last call's rows stay (FaultyCache needs that). Error kMisuse where
  // the cache has no such slots, as of those that write.
  virtual void begin(SlotRange slots) = 0;
  // It ends. Error kIncompatible when a layer was not called.
  virtual void end() = 0;

  // Layers, heads, dims and dtypes of the rows that it hands out and takes, which are
  // the model's, however it keeps them.
  [[nodiscard]] virtual const RowLayout& layout() const = 0;

  // Rows of one slot: `deltas` u8 [B, layout().row_stride_bytes()] on the cache's device.
  // The gaps between entries stay as they are.
  // Row by row and layer by layer, unless a cache knows a shorter way; so are those below.
  virtual void read_slot(std::int64_t slot, const at::Tensor& deltas) const;
  // Of the rows named in `rows`, or of all when it is empty. `from` says how deltas are
  // laid out: its layers, heads and dims are those of the cache, other dtypes are converted.
  virtual void write_slot(std::int64_t slot, const at::Tensor& deltas, const RowLayout& from,
                          std::span<const std::int64_t> rows);
  // One row's slots from `first_slot` on: deltas u8 [slots, row stride].
  virtual void write_slots(std::int64_t row, std::int64_t first_slot, const at::Tensor& deltas,
                           const RowLayout& from);

  // kv.k [num_kv_heads, slots, key_dim] and kv.v likewise, on any device. read() fills them;
  // write() takes other dtypes, too. Rows that begin at a row's first position, right behind its
  // padding, are its whole prompt: a cache may take scales from them.
  virtual void read(const LayerRows& where, const LayerKv& kv) const = 0;
  virtual void write(const LayerRows& where, const LayerKv& kv) = 0;

  // What read() would give after write() of `kv`: [.., num_kv_heads, slots, dim]. Unless a cache
  // rounds, the same numbers.
  [[nodiscard]] virtual LayerKv as_kept(const LayerRows& where, const LayerKv& kv) const;

  // A row, once its pass has ended, is changed by write() alone, and a query sees every
  // earlier row of its input. Then a state is a prefix of every later one: one final state
  // says them all, and the prompt may be read while steps go on. Else the prompt is read before
  // the next begin(), and a final state alone is refused.
  [[nodiscard]] virtual bool is_append_only() const { return true; }

  // For steps that are computed at once. The query of a row's position `positions` - 1 sees the
  // positions settled(positions) as as_settled() says, and all others as read() does. Its
  // first is always the same, its end grows. Nothing where only the steps themselves can say
  // what they see: then a parallel replay is refused.
  [[nodiscard]] virtual std::optional<SlotRange> settled(std::int64_t positions) const;
  // Layers in which as_settled() changes something.
  [[nodiscard]] virtual std::int64_t settled_layers() const { return layout().num_layers(); }
  // Positions of a row from the first settled one on, to any end that settled() may give:
  // [heads, positions, dim], as the model made them.
  [[nodiscard]] virtual LayerKv as_settled(std::int64_t layer, const LayerKv& kv) const;

  // What hides keys from its queries; null: nothing does.
  [[nodiscard]] virtual KeySelector* selector() const { return nullptr; }

  // So far; on the thread of the passes.
  [[nodiscard]] virtual cache::CacheUse use() const = 0;

 private:
  std::string spec_;
};

// Of a cache that allocated `physical_bytes` once, on one device, and holds of every row of the
// batch the slots before `end`.
[[nodiscard]] cache::CacheUse use_of(const RowLayout& layout, const BatchShape& shape,
                                     std::int64_t end, std::uint64_t physical_bytes,
                                     at::Device device);

// Error kUsage where a final state alone is wanted of a cache that is not append-only.
void check_final_state(const format::RowSink::Needs& needs, const KvCache& cache);

// Error kIncompatible for rows of 8 bits, which the cache called `name` cannot keep.
void check_row_type(std::string_view name, at::ScalarType dtype);

// Allocates a cache for a batch. `layout` outlives it, `shape` likewise or until clear().
using CacheMaker = std::function<std::unique_ptr<KvCache>(
    const RowLayout& layout, const BatchShape& shape, at::Device device)>;

}  // namespace kvtool::engine
