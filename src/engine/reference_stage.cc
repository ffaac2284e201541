#include "engine/reference_stage.h"

#include <algorithm>

#include "engine/host_memory.h"

namespace kvtool::engine {

LayerKv read_prompt_layer(const format::RowSource& source, const RowLayout& layout,
                          std::int64_t layer) {
  const auto count = static_cast<std::int64_t>(source.prompt().size());
  LayerKv prompt = layout.empty_rows(layer, count, at::kCPU);
  source.read_prefill_layer(static_cast<std::uint32_t>(layer), bytes_of(prompt.k),
                            bytes_of(prompt.v));
  return prompt;
}

std::vector<ReferenceRows> rows_by_reference(std::span<const format::RowSource* const> references) {
  std::vector<ReferenceRows> groups;
  for (std::size_t row = 0; row < references.size(); ++row) {
    const auto found = std::find_if(groups.begin(), groups.end(), [&](const ReferenceRows& group) {
      return group.reference == references[row];
    });
    ReferenceRows& group = found == groups.end() ? groups.emplace_back() : *found;
    group.reference = references[row];
    group.rows.push_back(static_cast<std::int64_t>(row));
  }
  return groups;
}

void PromptTarget::write(std::int64_t row, std::int64_t layer, const LayerKv& prompt) const {
  cache.write({layer, row, {shape.padding(row), shape.prompt_length(row)}}, prompt);
}

ReferenceStage::ReferenceStage(const RowLayout& layout, std::size_t buffers, std::int64_t batch,
                               at::Device device)
    : layout_(layout) {
  const std::vector<std::int64_t> sizes{batch, layout.row_stride_bytes()};
  buffers_.resize(buffers);
  for (Buffer& buffer : buffers_) {
    buffer.host = host_buffer(sizes, at::kByte, device).zero_();
    if (!device.is_cpu()) buffer.read.emplace(device.type());
  }
  if (!device.is_cpu()) {
    device_rows_ = at::empty(sizes, at::TensorOptions(at::kByte).device(device));
  }
}

std::span<std::byte> ReferenceStage::host_row(std::size_t buffer, std::int64_t row) {
  Buffer& place = buffers_[buffer];
  if (place.read && place.read->was_marked_for_recording()) place.read->synchronize();
  return bytes_of(place.host.select(0, row)).first(layout_.geometry().delta_bytes());
}

void ReferenceStage::inject(std::size_t buffer, KvCache& cache, std::int64_t slot,
                            std::span<const std::int64_t> rows) {
  Buffer& from = buffers_[buffer];
  if (!from.read) {
    cache.write_slot(slot, from.host, layout_, rows);
    return;
  }
  // Same stream as the model: the cache is overwritten between its passes.
  device_rows_.copy_(from.host, /*non_blocking=*/true);
  from.read->record(current_stream(device_rows_.device()));
  cache.write_slot(slot, device_rows_, layout_, rows);
}

}  // namespace kvtool::engine
