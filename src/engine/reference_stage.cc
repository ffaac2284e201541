#include "engine/reference_stage.h"

#include "engine/host_memory.h"

namespace kvtool::engine {
namespace {

constexpr std::size_t kBuffers = 4;

}  // namespace

void inject_prefill(const format::RowSource& source, const RowLayout& layout, KvCache& cache,
                    std::int64_t row, std::int64_t first_slot) {
  const auto count = static_cast<std::int64_t>(source.prompt().size());
  for (std::int64_t layer = 0; layer < layout.num_layers(); ++layer) {
    const LayerKv rows = layout.empty_rows(layer, count, at::kCPU);
    source.read_prefill_layer(static_cast<std::uint32_t>(layer), bytes_of(rows.k),
                              bytes_of(rows.v));
    cache.write({layer, row, {first_slot, count}}, rows);
  }
}

ReferenceStage::ReferenceStage(const RowLayout& layout, std::int64_t batch, at::Device device)
    : layout_(layout) {
  const std::vector<std::int64_t> sizes{batch, layout.row_stride_bytes()};
  buffers_.resize(device.is_cpu() ? 1 : kBuffers);
  for (Buffer& buffer : buffers_) {
    buffer.host = host_buffer(sizes, at::kByte, device).zero_();
    if (!device.is_cpu()) buffer.read.emplace(device.type());
  }
  if (!device.is_cpu()) {
    device_rows_ = at::empty(sizes, at::TensorOptions(at::kByte).device(device));
  }
}

std::span<std::byte> ReferenceStage::host_row(std::int64_t row) {
  Buffer& buffer = buffers_[next_];
  if (buffer.read && buffer.read->was_marked_for_recording()) buffer.read->synchronize();
  return bytes_of(buffer.host.select(0, row)).first(layout_.geometry().delta_bytes());
}

void ReferenceStage::inject(KvCache& cache, std::int64_t slot, std::span<const std::int64_t> rows) {
  Buffer& buffer = buffers_[next_];
  next_ = (next_ + 1) % buffers_.size();
  if (!buffer.read) {
    cache.write_slot(slot, buffer.host, layout_, rows);
    return;
  }
  // Same stream as the model: the cache is overwritten between its passes.
  device_rows_.copy_(buffer.host, /*non_blocking=*/true);
  buffer.read->record(current_stream(device_rows_.device()));
  cache.write_slot(slot, device_rows_, layout_, rows);
}

}  // namespace kvtool::engine
