#include "engine/cache/codecs/kivi_cache.h"

#include <algorithm>
#include <numeric>
#include <string>

#include "kvtool/base/error.h"

namespace kvtool::engine {
namespace {

LayerKv slots_of_rows(const LayerKv& kv, std::int64_t first, std::int64_t count) {
  return {kv.k.narrow(2, first, count), kv.v.narrow(2, first, count)};
}

std::optional<GroupCodec> codec_of(GroupAxis axis, std::uint32_t bits, std::int64_t group) {
  return bits == 0 ? std::nullopt : std::optional(GroupCodec(axis, bits, group));
}

}  // namespace

KiviCache::KiviCache(const cache::KiviSettings& settings, const RowLayout& layout,
                     const BatchShape& shape, at::Device device)
    : StoredCache(layout, shape, device),
      settings_(settings),
      group_(static_cast<std::int64_t>(settings.group)),
      sink_positions_(static_cast<std::int64_t>(settings.sinks)),
      sinks_(layout, shape.rows(), sink_positions_, device),
      recent_(layout, shape.rows(),
              std::min(shape.capacity(), static_cast<std::int64_t>(settings.ring_positions())),
              device),
      settled_(static_cast<std::size_t>(shape.rows()), 0),
      work_(layout, shape.rows(), shape.capacity(), device) {
  for (const RowLayout::Group& group : layout.groups()) check_row_type("kivi", group.dtype);
  settings.check_layers(static_cast<std::uint64_t>(layout.num_layers()));
  const std::int64_t most = settled(shape.capacity())->count;
  for (std::int64_t layer = 0; layer < layout.num_layers(); ++layer) {
    const auto index = static_cast<std::uint64_t>(layer);
    layers_.push_back(
        {SettledPart(codec_of(GroupAxis::kPositions, settings.key_bits_of(index), group_),
                     layout.key(layer), shape.rows(), most, device),
         SettledPart(codec_of(GroupAxis::kChannels, settings.value_bits_of(index), group_),
                     layout.value(layer), shape.rows(), most, device)});
    if (layers_.back().is_coded()) ++coded_layers_;
  }
  note_bytes();
}

std::int64_t KiviCache::settled_end(std::int64_t positions) const {
  return static_cast<std::int64_t>(settings_.settled(no_padding(positions)));
}

std::optional<SlotRange> KiviCache::settled(std::int64_t positions) const {
  const std::int64_t end = settled_end(positions);
  return SlotRange{sink_positions_, end == 0 ? 0 : end - sink_positions_};
}

void KiviCache::clear(const BatchShape& shape) {
  StoredCache::clear(shape);
  recent_.clear();
  settled_.assign(settled_.size(), 0);
  applied_rows_ = 0;
  peak_bytes_ = nbytes();
}

void KiviCache::begin(SlotRange slots) {
  check_room(slots);
  std::int64_t first = slots.first;
  for (std::int64_t row = 0; row < shape().rows(); ++row) {
    settle(row, slots);
    first = std::min(first, first_whole_slot(row));
  }
  recent_.begin(slots, first);
  note_bytes();
  StoredCache::begin(slots);
}

void KiviCache::settle(std::int64_t row, SlotRange next) {
  std::int64_t& done = settled_[static_cast<std::size_t>(row)];
  const std::int64_t padding = shape().padding(row);
  const auto target = static_cast<std::int64_t>(settings_.settled_in_pass(
      no_padding(next.first - padding), no_padding(next.end() - padding)));
  if (target <= done) return;
  const std::int64_t first = std::max(done, sink_positions_);
  for (std::int64_t layer = 0; layer < layout().num_layers(); ++layer) {
    if (done == 0 && sink_positions_ > 0) {
      copy_rows(recent_.rows({layer, row, {padding, sink_positions_}}),
                row_slots(sinks_.layer(layer), row, {0, sink_positions_}));
    }
    const LayerKv rows = recent_.rows({layer, row, {padding + first, target - first}});
    const SettledLayer& settled = settled_layer(layer);
    settled.k.take_in(row, first - sink_positions_, rows.k);
    settled.v.take_in(row, first - sink_positions_, rows.v);
  }
  applied_rows_ += static_cast<std::uint64_t>((target - first) * coded_layers_);
  done = target;
}

std::int64_t KiviCache::first_whole_slot(std::int64_t row) const {
  return shape().padding(row) + settled_[static_cast<std::size_t>(row)];
}

void KiviCache::take_in(const AttentionCall& call) {
  recent_.take_in(call.layer, pass(), {call.k, call.v});
}

LayerKv KiviCache::seen(std::int64_t layer, SlotRange slots) {
  const SlotRange wide = recent_.wide();
  if (wide.count > 0 && slots.first >= wide.first) {
    return recent_.first_piece(slots).of_all(layer);
  }
  const LayerKv all = work_.of_layer(layer);
  std::int64_t whole = slots.end();
  for (std::int64_t row = 0; row < shape().rows(); ++row) {
    whole = std::min(whole, std::max(slots.first, first_whole_slot(row)));
  }
  recent_.each_piece({whole, slots.end() - whole}, [&](const RecentRows::Piece& piece) {
    copy_rows(piece.of_all(layer), slots_of_rows(all, piece.slots.first, piece.slots.count));
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
    const SettledLayer& settled = settled_layer(where.layer);
    settled.k.give_out(where.row, first - sinks, target.k);
    settled.v.give_out(where.row, first - sinks, target.v);
  });
}

void KiviCache::fill(const LayerRows& where, const LayerKv& kv) const {
  fill_old(where, kv);
  const std::int64_t whole = std::max(where.slots.first, first_whole_slot(where.row));
  if (whole >= where.slots.end()) return;
  const std::int64_t count = where.slots.end() - whole;
  copy_rows(recent_.rows({where.layer, where.row, {whole, count}}),
            positions_of(kv, whole - where.slots.first, count));
}

void KiviCache::read(const LayerRows& where, const LayerKv& kv) const {
  const LayerKv own = layout().empty_rows(where.layer, where.slots.count, device());
  fill(where, own);
  copy_rows(own, kv);
}

void KiviCache::check_writable(SlotRange slots, std::span<const std::int64_t> rows) const {
  check_room(slots);
  std::int64_t first = 0;
  for (const std::int64_t row : rows) first = std::max(first, first_whole_slot(row));
  recent_.check_writable(slots, held_end(), first, name());
}

void KiviCache::write(const LayerRows& where, const LayerKv& kv) {
  const std::int64_t row = where.row;
  check_writable(where.slots, {&row, 1});
  note(where.slots);
  recent_.write(where, kv);
}

void KiviCache::write_slot(std::int64_t slot, const at::Tensor& deltas, const RowLayout& from,
                           std::span<const std::int64_t> rows) {
  std::vector<std::int64_t> all(static_cast<std::size_t>(rows.empty() ? shape().rows() : 0));
  std::iota(all.begin(), all.end(), 0);
  check_writable({slot, 1}, rows.empty() ? std::span<const std::int64_t>(all) : rows);
  note({slot, 1});
  recent_.write_slot(slot, deltas, from, rows);
}

void KiviCache::read_slot(std::int64_t slot, const at::Tensor& deltas) const {
  bool whole = true;
  for (std::int64_t row = 0; row < shape().rows(); ++row) {
    whole = whole && slot >= first_whole_slot(row);
  }
  whole ? recent_.read_slot(slot, deltas) : KvCache::read_slot(slot, deltas);
}

LayerKv KiviCache::as_settled(std::int64_t layer, const LayerKv& kv) const {
  const LayerKv rows = as_kept({layer, 0, {}}, kv);
  const SettledLayer& settled = settled_layer(layer);
  return {settled.k.round_trip(rows.k.to(device())), settled.v.round_trip(rows.v.to(device()))};
}

void KiviCache::note_bytes() { peak_bytes_ = std::max(peak_bytes_, nbytes()); }

std::uint64_t KiviCache::nbytes() const {
  std::uint64_t bytes = sinks_.nbytes() + recent_.nbytes() + work_.nbytes();
  for (const SettledLayer& settled : layers_) bytes += settled.k.nbytes() + settled.v.nbytes();
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
