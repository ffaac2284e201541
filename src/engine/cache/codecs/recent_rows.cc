#include "engine/cache/codecs/recent_rows.h"

#include <algorithm>
#include <string>

#include "kvtool/base/error.h"

namespace kvtool::engine {

LayerKv RecentRows::Piece::of_all(std::int64_t layer) const {
  const LayerKv& rows = buffer->layer(layer);
  return {rows.k.narrow(2, index, slots.count), rows.v.narrow(2, index, slots.count)};
}

LayerKv RecentRows::Piece::of_row(std::int64_t layer, std::int64_t row) const {
  return row_slots(buffer->layer(layer), row, {index, slots.count});
}

RecentRows::RecentRows(const RowLayout& layout, std::int64_t rows, std::int64_t ring_slots,
                       at::Device device)
    : layout_(layout),
      rows_(rows),
      ring_slots_(ring_slots),
      device_(device),
      ring_(layout, rows, ring_slots, device, RowBuffer::Fill::kZeros) {}

void RecentRows::clear() {
  ring_.zero();
  wide_ = RowBuffer();
  wide_slots_ = {};
}

void RecentRows::begin(SlotRange next, std::int64_t first) {
  if (!wide_.is_empty()) move_to_ring(next, std::max(first, wide_slots_.first));
  if (next.count == 1) return;
  wide_ = RowBuffer(layout_, rows_, next.count, device_);
  wide_slots_ = next;
}

void RecentRows::move_to_ring(SlotRange next, std::int64_t first) {
  const SlotRange needed{first, std::max<std::int64_t>(0, wide_slots_.end() - first)};
  if (needed.count > ring_slots_) {
    throw_misuse("a pass from slot " + std::to_string(next.first) + " on leaves no room for " +
                 std::to_string(needed.count) + " rows of the pass before it");
  }
  const RowBuffer wide = std::move(wide_);
  wide_ = RowBuffer();
  for (std::int64_t layer = 0; layer < layout_.num_layers(); ++layer) {
    each_piece(needed, [&](const Piece& piece) {
      const std::int64_t index = piece.slots.first - wide_slots_.first;
      copy_rows(Piece{&wide, index, piece.slots}.of_all(layer), piece.of_all(layer));
    });
  }
}

RecentRows::Piece RecentRows::first_piece(SlotRange slots) const {
  std::int64_t end = slots.end();
  const std::int64_t slot = slots.first;
  const bool in_wide = !wide_.is_empty() && slot >= wide_slots_.first;
  if (in_wide) return {&wide_, slot - wide_slots_.first, {slot, end - slot}};
  if (!wide_.is_empty()) end = std::min(end, wide_slots_.first);
  const std::int64_t index = slot % ring_slots_;
  return {&ring_, index, {slot, std::min(end - slot, ring_slots_ - index)}};
}

void RecentRows::take_in(std::int64_t layer, SlotRange pass, const LayerKv& kv) const {
  copy_rows(kv, first_piece(pass).of_all(layer));
}

LayerKv RecentRows::rows(const LayerRows& where) const {
  const Piece first = first_piece(where.slots);
  if (first.slots.count == where.slots.count) return first.of_row(where.layer, where.row);
  const LayerKv rows = layout_.empty_rows(where.layer, where.slots.count, device_);
  each_piece(where.slots, [&](const Piece& piece) {
    copy_rows(piece.of_row(where.layer, where.row),
              positions_of(rows, piece.slots.first - where.slots.first, piece.slots.count));
  });
  return rows;
}

void RecentRows::write(const LayerRows& where, const LayerKv& kv) const {
  each_piece(where.slots, [&](const Piece& piece) {
    copy_rows(positions_of(kv, piece.slots.first - where.slots.first, piece.slots.count),
              piece.of_row(where.layer, where.row));
  });
}

void RecentRows::read_slot(std::int64_t slot, const at::Tensor& deltas) const {
  const Piece piece = first_piece({slot, 1});
  piece.buffer->read_slot(piece.index, deltas);
}

void RecentRows::write_slot(std::int64_t slot, const at::Tensor& deltas, const RowLayout& from,
                            std::span<const std::int64_t> rows) {
  const Piece piece = first_piece({slot, 1});
  (piece.buffer == &wide_ ? wide_ : ring_).write_slot(piece.index, deltas, from, rows);
}

void RecentRows::check_writable(SlotRange slots, std::int64_t end, std::int64_t first_whole,
                                const std::string& owner) const {
  const std::int64_t least = std::max(first_whole, least_slot(end, slots.end()));
  if (slots.first >= least) return;
  throw_misuse(owner + " takes no rows before slot " + std::to_string(least) + ", not those of " +
               std::to_string(slots.first) + ": they have been quantized, or there is no room");
}

std::int64_t RecentRows::least_slot(std::int64_t end, std::int64_t written_end) const {
  if (wide_.is_empty()) return std::max<std::int64_t>(0, std::max(end, written_end) - ring_slots_);
  return written_end <= wide_slots_.end() ? 0 : written_end;
}

}  // namespace kvtool::engine
