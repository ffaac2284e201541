#include "engine/cache/codecs/kivi_cache.h"

#include <algorithm>
#include <numeric>
#include <string>

#include "kvtool/base/error.h"

namespace kvtool::engine {
namespace {

void copy_rows(const LayerKv& from, const LayerKv& to) {
  to.k.copy_(from.k);
  to.v.copy_(from.v);
}

LayerKv slots_of_rows(const LayerKv& kv, std::int64_t first, std::int64_t count) {
  return {kv.k.narrow(2, first, count), kv.v.narrow(2, first, count)};
}

CodedGroups row_of(const CodedGroups& coded, std::int64_t row) {
  return {coded.codes.select(0, row), coded.scales.select(0, row), coded.zeros.select(0, row)};
}

}  // namespace

KiviCache::KiviCache(const cache::KiviSettings& settings, const RowLayout& layout,
                     const BatchShape& shape, at::Device device)
    : StoredCache(layout, shape, device),
      settings_(settings),
      group_(static_cast<std::int64_t>(settings.group)),
      sink_positions_(static_cast<std::int64_t>(settings.sinks)),
      key_codec_(GroupAxis::kPositions, settings.key_bits, group_),
      value_codec_(GroupAxis::kChannels, settings.value_bits, group_),
      ring_slots_(std::min(shape.capacity(), static_cast<std::int64_t>(settings.ring_positions()))),
      sinks_(layout, shape.rows(), sink_positions_, device),
      recent_(layout, shape.rows(), ring_slots_, device, RowBuffer::Fill::kZeros),
      settled_(static_cast<std::size_t>(shape.rows()), 0),
      work_(layout, shape.rows(), shape.capacity(), device) {
  for (const RowLayout::Group& group : layout.groups()) check_row_type("kivi", group.dtype);
  const std::int64_t coded = settled(shape.capacity())->count;
  for (std::int64_t layer = 0; layer < layout.num_layers(); ++layer) {
    const auto room = [&](const GroupCodec& codec, const RowLayout::Entry& entry) {
      return codec.allocate({shape.rows(), entry.heads}, coded, entry.dim, device);
    };
    coded_.push_back(
        {room(key_codec_, layout.key(layer)), room(value_codec_, layout.value(layer))});
  }
  note_bytes();
}

std::int64_t KiviCache::settled_end(std::int64_t positions) const {
  return static_cast<std::int64_t>(
      settings_.settled(static_cast<std::uint64_t>(std::max<std::int64_t>(0, positions))));
}

std::optional<SlotRange> KiviCache::settled(std::int64_t positions) const {
  const std::int64_t end = settled_end(positions);
  return SlotRange{sink_positions_, end == 0 ? 0 : end - sink_positions_};
}

void KiviCache::clear(const BatchShape& shape) {
  StoredCache::clear(shape);
  recent_.zero();
  wide_ = RowBuffer();
  wide_slots_ = {};
  settled_.assign(settled_.size(), 0);
  applied_rows_ = 0;
  peak_bytes_ = nbytes();
}

void KiviCache::begin(SlotRange slots) {
  check_room(slots);
  for (std::int64_t row = 0; row < shape().rows(); ++row) settle(row, slots);
  if (!wide_.is_empty()) move_to_ring(slots);
  if (slots.count > 1) {
    wide_ = RowBuffer(layout(), shape().rows(), slots.count, device());
    wide_slots_ = slots;
    note_bytes();
  }
  StoredCache::begin(slots);
}

void KiviCache::settle(std::int64_t row, SlotRange next) {
  std::int64_t& done = settled_[static_cast<std::size_t>(row)];
  const std::int64_t padding = shape().padding(row);
  // Within a pass of many nothing is known yet of the rows that it will make.
  const std::int64_t known = next.first - padding;
  std::int64_t target = settled_end(next.end() - padding);
  if (target > known)
    target = known < sink_positions_ + group_ ? 0 : known - (known - sink_positions_) % group_;
  if (target <= done) return;
  const std::int64_t first = std::max(done, sink_positions_);
  for (std::int64_t layer = 0; layer < layout().num_layers(); ++layer) {
    if (done == 0 && sink_positions_ > 0) {
      copy_rows(whole_rows(layer, row, {padding, sink_positions_}),
                row_slots(sinks_.layer(layer), row, {0, sink_positions_}));
    }
    const LayerKv rows = whole_rows(layer, row, {padding + first, target - first});
    const CodedLayer& coded = coded_[static_cast<std::size_t>(layer)];
    const auto encode = [&](const GroupCodec& codec, const CodedGroups& all,
                            const at::Tensor& own) {
      codec.encode(own, codec.part(row_of(all, row), first - sink_positions_, target - first));
    };
    encode(key_codec_, coded.k, rows.k);
    encode(value_codec_, coded.v, rows.v);
  }
  applied_rows_ += static_cast<std::uint64_t>((target - first) * layout().num_layers());
  done = target;
}

void KiviCache::move_to_ring(SlotRange next) {
  std::int64_t first = wide_slots_.end();
  for (std::int64_t row = 0; row < shape().rows(); ++row) {
    first = std::min(first, std::max(wide_slots_.first, first_whole_slot(row)));
  }
  if (wide_slots_.end() - first > ring_slots_) {
    throw_misuse("a pass from slot " + std::to_string(next.first) + " on leaves no room for " +
                 std::to_string(wide_slots_.end() - first) + " rows of the pass before it");
  }
  const RowBuffer wide = std::move(wide_);
  wide_ = RowBuffer();
  for (std::int64_t layer = 0; layer < layout().num_layers(); ++layer) {
    each_piece({first, wide_slots_.end() - first}, [&](const Piece& piece) {
      copy_rows(slots_of_rows(wide.layer(layer), piece.slots.first - wide_slots_.first,
                              piece.slots.count),
                slots_of_rows(recent_.layer(layer), piece.index, piece.slots.count));
    });
  }
}

KiviCache::Piece KiviCache::piece_at(std::int64_t slot, std::int64_t end) const {
  const bool in_wide = !wide_.is_empty() && slot >= wide_slots_.first;
  if (in_wide) return {&wide_, slot - wide_slots_.first, {slot, end - slot}};
  if (!wide_.is_empty()) end = std::min(end, wide_slots_.first);
  const std::int64_t index = slot % ring_slots_;
  return {&recent_, index, {slot, std::min(end - slot, ring_slots_ - index)}};
}

template <typename Visit>
void KiviCache::each_piece(SlotRange slots, const Visit& visit) const {
  std::int64_t slot = slots.first;
  while (slot < slots.end()) {
    const Piece piece = piece_at(slot, slots.end());
    visit(piece);
    slot = piece.slots.end();
  }
}

std::int64_t KiviCache::first_whole_slot(std::int64_t row) const {
  return shape().padding(row) + settled_[static_cast<std::size_t>(row)];
}

LayerKv KiviCache::whole_rows(std::int64_t layer, std::int64_t row, SlotRange slots) const {
  const Piece all = piece_at(slots.first, slots.end());
  if (all.slots.count == slots.count) {
    return row_slots(all.buffer->layer(layer), row, {all.index, slots.count});
  }
  const LayerKv rows = layout().empty_rows(layer, slots.count, device());
  each_piece(slots, [&](const Piece& piece) {
    copy_rows(row_slots(piece.buffer->layer(layer), row, {piece.index, piece.slots.count}),
              positions_of(rows, piece.slots.first - slots.first, piece.slots.count));
  });
  return rows;
}

void KiviCache::take_in(const AttentionCall& call) {
  const Piece piece = piece_at(pass().first, pass().end());
  copy_rows({call.k, call.v},
            slots_of_rows(piece.buffer->layer(call.layer), piece.index, pass().count));
}

LayerKv KiviCache::seen(std::int64_t layer, SlotRange slots) {
  if (!wide_.is_empty() && slots.first >= wide_slots_.first) {
    return slots_of_rows(wide_.layer(layer), slots.first - wide_slots_.first, slots.count);
  }
  const LayerKv all = work_.of_layer(layer);
  std::int64_t whole = slots.end();
  for (std::int64_t row = 0; row < shape().rows(); ++row) {
    whole = std::min(whole, std::max(slots.first, first_whole_slot(row)));
  }
  each_piece({whole, slots.end() - whole}, [&](const Piece& piece) {
    copy_rows(slots_of_rows(piece.buffer->layer(layer), piece.index, piece.slots.count),
              slots_of_rows(all, piece.slots.first, piece.slots.count));
  });
  for (std::int64_t row = 0; row < shape().rows(); ++row) {
    fill_old({layer, row, slots}, row_slots(all, row, slots));
  }
  return slots_of_rows(all, slots.first, slots.count);
}

void KiviCache::fill_old(const LayerRows& where, const LayerKv& kv) const {
  const std::int64_t padding = shape().padding(where.row);
  const std::int64_t done = settled_[static_cast<std::size_t>(where.row)];
  // Of positions [first, last): what of `where` they are, by position and in `kv`.
  const auto part = [&](std::int64_t first, std::int64_t last, const auto& visit) {
    const std::int64_t from = std::max(first, where.slots.first - padding);
    const std::int64_t to = std::min(last, where.slots.end() - padding);
    if (from < to) {
      visit(from, positions_of(kv, from + padding - where.slots.first, to - from), to - from);
    }
  };
  part(-padding, 0, [](std::int64_t, const LayerKv& target, std::int64_t) {
    target.k.zero_();
    target.v.zero_();
  });
  const std::int64_t sinks = std::min(done, sink_positions_);
  part(0, sinks, [&](std::int64_t first, const LayerKv& target, std::int64_t count) {
    copy_rows(row_slots(sinks_.layer(where.layer), where.row, {first, count}), target);
  });
  part(sinks, done, [&](std::int64_t first, const LayerKv& target, std::int64_t) {
    const CodedLayer& coded = coded_[static_cast<std::size_t>(where.layer)];
    key_codec_.decode(row_of(coded.k, where.row), first - sinks, target.k);
    value_codec_.decode(row_of(coded.v, where.row), first - sinks, target.v);
  });
}

void KiviCache::fill(const LayerRows& where, const LayerKv& kv) const {
  fill_old(where, kv);
  const std::int64_t whole = std::max(where.slots.first, first_whole_slot(where.row));
  if (whole >= where.slots.end()) return;
  const std::int64_t count = where.slots.end() - whole;
  copy_rows(whole_rows(where.layer, where.row, {whole, count}),
            positions_of(kv, whole - where.slots.first, count));
}

void KiviCache::read(const LayerRows& where, const LayerKv& kv) const {
  const LayerKv own = layout().empty_rows(where.layer, where.slots.count, device());
  fill(where, own);
  copy_rows(own, kv);
}

void KiviCache::check_writable(SlotRange slots, std::span<const std::int64_t> rows) const {
  check_room(slots);
  const std::int64_t end = std::max(held_end(), slots.end());
  std::int64_t least = std::max<std::int64_t>(0, end - ring_slots_);
  if (!wide_.is_empty()) least = slots.end() <= wide_slots_.end() ? 0 : slots.end();
  for (const std::int64_t row : rows) least = std::max(least, first_whole_slot(row));
  if (slots.first >= least) return;
  throw_misuse(name() + " takes no rows before slot " + std::to_string(least) + ", not those of " +
               std::to_string(slots.first) + ": they have been quantized, or there is no room");
}

void KiviCache::write(const LayerRows& where, const LayerKv& kv) {
  const std::int64_t row = where.row;
  check_writable(where.slots, {&row, 1});
  note(where.slots);
  each_piece(where.slots, [&](const Piece& piece) {
    copy_rows(positions_of(kv, piece.slots.first - where.slots.first, piece.slots.count),
              row_slots(piece.buffer->layer(where.layer), row, {piece.index, piece.slots.count}));
  });
}

void KiviCache::write_slot(std::int64_t slot, const at::Tensor& deltas, const RowLayout& from,
                           std::span<const std::int64_t> rows) {
  std::vector<std::int64_t> all(static_cast<std::size_t>(rows.empty() ? shape().rows() : 0));
  std::iota(all.begin(), all.end(), 0);
  check_writable({slot, 1}, rows.empty() ? std::span<const std::int64_t>(all) : rows);
  note({slot, 1});
  const Piece piece = piece_at(slot, slot + 1);
  (piece.buffer == &wide_ ? wide_ : recent_).write_slot(piece.index, deltas, from, rows);
}

void KiviCache::read_slot(std::int64_t slot, const at::Tensor& deltas) const {
  bool whole = true;
  for (std::int64_t row = 0; row < shape().rows(); ++row) {
    whole = whole && slot >= first_whole_slot(row);
  }
  if (whole) {
    const Piece piece = piece_at(slot, slot + 1);
    piece.buffer->read_slot(piece.index, deltas);
    return;
  }
  KvCache::read_slot(slot, deltas);
}

LayerKv KiviCache::as_settled(std::int64_t layer, const LayerKv& kv) const {
  const LayerKv rows = as_kept({layer, 0, {}}, kv);
  const auto round_trip = [&](const GroupCodec& codec, const at::Tensor& exact) {
    const CodedGroups coded =
        codec.allocate({exact.size(0)}, exact.size(1), exact.size(2), device());
    codec.encode(exact, coded);
    at::Tensor kept = at::empty_like(exact, at::MemoryFormat::Contiguous);
    codec.decode(coded, 0, kept);
    return kept;
  };
  return {round_trip(key_codec_, rows.k), round_trip(value_codec_, rows.v)};
}

void KiviCache::note_bytes() { peak_bytes_ = std::max(peak_bytes_, nbytes()); }

std::uint64_t KiviCache::nbytes() const {
  std::uint64_t bytes = sinks_.nbytes() + recent_.nbytes() + wide_.nbytes() + work_.nbytes();
  for (const CodedLayer& coded : coded_) bytes += coded.k.nbytes() + coded.v.nbytes();
  return bytes;
}

cache::CacheUse KiviCache::use() const {
  cache::CacheUse use = use_with(nbytes());
  use.peak_bytes += peak_bytes_ - nbytes();
  use.places.front().peak_bytes = use.peak_bytes;
  use.applied_rows = applied_rows_;
  return use;
}

}  // namespace kvtool::engine
