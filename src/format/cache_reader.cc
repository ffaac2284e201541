// Recording's functions that read K and V.
#include <algorithm>
#include <array>
#include <memory>
#include <new>

#include "bytes.h"
#include "checksum.h"
#include "kvtool/base/error.h"
#include "reader_impl.h"

namespace kvtool::format {
namespace {

// Copies the first `positions` rows of every head between two tensors
// [heads, capacity, row] that differ in how many positions they hold.
void copy_heads(std::span<const std::byte> from, std::uint64_t from_positions,
                std::span<std::byte> to, std::uint64_t to_positions, std::uint64_t heads,
                std::uint64_t row_bytes, std::uint64_t positions) {
  for (std::uint64_t head = 0; head < heads; ++head) {
    copy_bytes(from.subspan(head * from_positions * row_bytes, positions * row_bytes),
               to.subspan(head * to_positions * row_bytes));
  }
}

// Copies one position [heads, row] into a tensor [heads, capacity, row].
void scatter_row(std::span<const std::byte> from, std::span<std::byte> to,
                 std::uint64_t to_positions, std::uint64_t position, std::uint64_t heads) {
  const std::uint64_t row_bytes = from.size() / heads;
  for (std::uint64_t head = 0; head < heads; ++head) {
    copy_bytes(from.subspan(head * row_bytes, row_bytes),
               to.subspan((head * to_positions + position) * row_bytes));
  }
}

// The inverse of scatter_row.
void gather_row(std::span<const std::byte> from, std::uint64_t from_positions,
                std::uint64_t position, std::span<std::byte> to, std::uint64_t heads) {
  const std::uint64_t row_bytes = to.size() / heads;
  for (std::uint64_t head = 0; head < heads; ++head) {
    copy_bytes(from.subspan((head * from_positions + position) * row_bytes, row_bytes),
               to.subspan(head * row_bytes));
  }
}

}  // namespace

StepStats Recording::Impl::read_step(std::uint64_t step, std::span<std::byte> delta) const {
  require_step(step);
  const std::uint64_t offset = step_offset(step);
  const std::uint64_t stats_bytes = stats_block_bytes(header);
  std::array<std::byte, kRecordHeaderBytes + kMaxStatsBlockBytes> buffer;
  const auto front = std::span(buffer).subspan(0, kRecordHeaderBytes + stats_bytes);
  source.read(offset, front);
  const RecordHeader record =
      source.check_header(front.subspan(0, kRecordHeaderBytes), offset, RecordType::kStep, step,
                          step_payload_bytes(header));
  source.read(offset + front.size(), delta);
  StreamingChecksum sum;
  sum.update(front.subspan(kRecordHeaderBytes));
  sum.update(delta);
  if (sum.digest() != record.payload_checksum) {
    source.throw_damaged(record, "the payload's checksum is wrong");
  }
  verified_steps[step].store(true, std::memory_order_relaxed);
  return checked_stats(record, front.subspan(kRecordHeaderBytes));
}

LayerState Recording::Impl::read_state(std::uint32_t layer) const {
  const bool finals_only = header.save_mode == SaveMode::kFinalOnly;
  LayerState state;
  state.positions = header.prompt_length + (finals_only ? num_steps() : 0);
  state.layout = state_layout(header.geometry.layer(layer), state.positions).value();
  const RecordHeader record = source.read_header(
      state_offsets.at(layer), finals_only ? RecordType::kFinal : RecordType::kPrefill, layer,
      state.layout.payload_bytes);
  try {
    state.payload.resize(state.layout.payload_bytes);
  } catch (const std::bad_alloc&) {
    throw_environment(source.path().string() + ": not enough memory for the " +
                      std::to_string(state.layout.payload_bytes) + " bytes of layer " +
                      std::to_string(layer));
  }
  source.read_payload(record, state.payload);
  return state;
}

const LayerState& Recording::Impl::final_state(std::uint32_t layer) const {
  const std::lock_guard lock(final_mutex);
  finals.resize(header.geometry.num_layers());
  std::unique_ptr<const LayerState>& state = finals[layer];
  if (!state) state = std::make_unique<const LayerState>(read_state(layer));
  return *state;
}

void Recording::Impl::gather_delta(std::uint64_t step, std::span<std::byte> delta) const {
  std::fill(delta.begin(), delta.end(), std::byte{0});
  for (std::uint32_t i = 0; i < header.geometry.num_layers(); ++i) {
    const LayerState& state = final_state(i);
    const LayerGeometry& layer = header.geometry.layer(i);
    const RowOffset& row = header.geometry.row_offset(i);
    const std::span<const std::byte> payload(state.payload);
    const std::uint64_t position = header.prompt_length + step;
    gather_row(payload, state.positions, position, delta.subspan(row.key, layer.key_bytes()),
               layer.num_kv_heads);
    gather_row(payload.subspan(state.layout.value_offset), state.positions, position,
               delta.subspan(row.value, layer.value_bytes()), layer.num_kv_heads);
  }
}

void Recording::Impl::read_row(std::uint64_t step, std::uint32_t layer,
                               std::span<std::byte> scratch, std::span<std::byte> row) const {
  const std::uint64_t row_start = header.geometry.row_offset(layer).key;
  if (verified_steps[step].load(std::memory_order_relaxed)) {
    source.read(step_offset(step) + kRecordHeaderBytes + stats_block_bytes(header) + row_start,
                row);
    return;
  }
  static_cast<void>(read_step(step, scratch));
  copy_bytes(scratch.subspan(row_start, row.size()), row);
}

bool Recording::has_deltas() const {
  return header().save_mode == SaveMode::kDelta || impl_->has_finals();
}

StepStats Recording::read_step(std::uint64_t step, std::span<std::byte> delta) const {
  if (!has_deltas()) {
    impl_->misuse("holds no K/V of single steps: it is a " +
                  std::string(save_mode_name(header().save_mode)) + " recording" +
                  (complete() ? "" : " and truncated"));
  }
  if (delta.size() != geometry().delta_bytes()) {
    impl_->misuse("K/V of a step have " + std::to_string(geometry().delta_bytes()) +
                  " bytes, the buffer has " + std::to_string(delta.size()));
  }
  if (header().save_mode == SaveMode::kDelta) return impl_->read_step(step, delta);
  StepStats stats = impl_->read_stats(step);
  impl_->gather_delta(step, delta);
  return stats;
}

void Recording::read_delta(std::uint64_t step, std::span<std::byte> target) const {
  static_cast<void>(read_step(step, target));
}

void Recording::read_layer(std::uint32_t layer, std::uint64_t positions, std::span<std::byte> key,
                           std::span<std::byte> value) const {
  if (layer >= geometry().num_layers()) {
    impl_->misuse("no layer " + std::to_string(layer) + ", it has " +
                  std::to_string(geometry().num_layers()));
  }
  if (positions > num_cached_positions()) {
    impl_->misuse("holds K/V of " + std::to_string(num_cached_positions()) + " positions, " +
                  std::to_string(positions) + " are asked for");
  }
  const LayerGeometry& shape = geometry().layer(layer);
  if (key.size() != shape.key_bytes() * positions ||
      value.size() != shape.value_bytes() * positions) {
    impl_->misuse("layer " + std::to_string(layer) + ": K of " + std::to_string(key.size()) +
                  " and V of " + std::to_string(value.size()) + " bytes do not hold " +
                  std::to_string(positions) + " positions");
  }
  if (positions == 0) return;
  const std::uint64_t heads = shape.num_kv_heads;
  const bool finals_only = header().save_mode == SaveMode::kFinalOnly;
  const LayerState read = finals_only ? LayerState() : impl_->read_state(layer);
  const LayerState& state = finals_only ? impl_->final_state(layer) : read;
  const std::span<const std::byte> payload(state.payload);
  const std::uint64_t from_state = std::min(positions, state.positions);
  copy_heads(payload, state.positions, key, positions, heads, shape.key_bytes() / heads,
             from_state);
  copy_heads(payload.subspan(state.layout.value_offset), state.positions, value, positions, heads,
             shape.value_bytes() / heads, from_state);
  if (positions == from_state) return;

  const RowOffset& offset = geometry().row_offset(layer);
  const std::uint64_t value_at = offset.value - offset.key;
  std::vector<std::byte> row(value_at + shape.value_bytes());
  std::vector<std::byte> scratch(geometry().delta_bytes());
  for (std::uint64_t position = from_state; position < positions; ++position) {
    impl_->read_row(position - header().prompt_length, layer, scratch, row);
    const std::span<const std::byte> rows(row);
    scatter_row(rows.subspan(0, shape.key_bytes()), key, positions, position, heads);
    scatter_row(rows.subspan(value_at), value, positions, position, heads);
  }
}

}  // namespace kvtool::format
