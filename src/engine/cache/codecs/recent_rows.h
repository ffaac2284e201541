// The last rows of a cache that keeps older ones otherwise: as the model made them.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <span>
#include <string>

#include "engine/cache/row_buffer.h"

namespace kvtool::engine {

// In a ring of slots, and those of a pass of many apart until the next pass begins.
class RecentRows {
 public:
  // Slots that stand side by side in memory, from `index` on.
  struct Piece {
    const RowBuffer* buffer;
    std::int64_t index;
    SlotRange slots;

    // [B, heads, slots, dim]
    [[nodiscard]] LayerKv of_all(std::int64_t layer) const;
    // [heads, slots, dim]
    [[nodiscard]] LayerKv of_row(std::int64_t layer, std::int64_t row) const;
  };

  // `layout` outlives it.
  RecentRows(const RowLayout& layout, std::int64_t rows, std::int64_t ring_slots,
             at::Device device);

  // As new.
  void clear();
  // A pass over `next` begins, to which slots from `first` on still matter. Error kMisuse where
  // there is no room for them.
  void begin(SlotRange next, std::int64_t first);
  // Rows of a pass, [B, heads, slots, dim].
  void take_in(std::int64_t layer, SlotRange pass, const LayerKv& kv) const;
  // The slots of the last pass, where those are many and it was the last that began.
  [[nodiscard]] SlotRange wide() const { return wide_.is_empty() ? SlotRange{} : wide_slots_; }

  // The first of `slots`, up to where their memory ends.
  [[nodiscard]] Piece first_piece(SlotRange slots) const;
  // Calls `visit(piece)` for all of them, in order.
  template <typename Visit>
  void each_piece(SlotRange slots, const Visit& visit) const {
    while (slots.count > 0) {
      const Piece piece = first_piece(slots);
      visit(piece);
      slots = {piece.slots.end(), slots.end() - piece.slots.end()};
    }
  }

  // [heads, slots, dim], a view where the memory allows it.
  [[nodiscard]] LayerKv rows(const LayerRows& where) const;
  void write(const LayerRows& where, const LayerKv& kv) const;
  // As those of KvCache.
  void read_slot(std::int64_t slot, const at::Tensor& deltas) const;
  void write_slot(std::int64_t slot, const at::Tensor& deltas, const RowLayout& from,
                  std::span<const std::int64_t> rows);

  // Error kMisuse of the cache called `owner`, which holds the slots before `end` and has quantized
  // those before `first_whole`, unless `slots` are whole rows that there is room for.
  void check_writable(SlotRange slots, std::int64_t end, std::int64_t first_whole,
                      const std::string& owner) const;
  [[nodiscard]] std::uint64_t nbytes() const { return ring_.nbytes() + wide_.nbytes(); }

 private:
  // The first slot that there is room for, to write those before `written_end`.
  [[nodiscard]] std::int64_t least_slot(std::int64_t end, std::int64_t written_end) const;
  void move_to_ring(SlotRange next, std::int64_t first);

  const RowLayout& layout_;
  std::int64_t rows_;
  std::int64_t ring_slots_;
  at::Device device_;
  RowBuffer ring_;  // slot s at s % ring_slots_
  RowBuffer wide_;  // of the last pass of more than one slot, until the next begins
  SlotRange wide_slots_;
};

}  // namespace kvtool::engine
