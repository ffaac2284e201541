#include "engine/step_ring.h"

#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include "engine/host_memory.h"

namespace kvtool::engine {

SideStream::SideStream(at::Device device) : device_(device) {
  if (!device.is_cpu()) {
    stream_ = c10::impl::VirtualGuardImpl(device.type()).getStreamFromGlobalPool(device);
  }
}

void SideStream::wait_for_compute() {
  c10::Event ready(device_.type());
  ready.record(current_stream(device_));
  ready.block(*stream_);
}

StepSlot::StepSlot(std::size_t index, std::int64_t batch, std::int64_t packed_width,
                   std::int64_t row_stride_bytes, bool with_rows, at::Device device)
    : index_(index) {
  host_packed_ = host_buffer({batch, packed_width}, at::kLong, device);
  if (with_rows) {
    host_rows_ = host_buffer({batch, row_stride_bytes}, at::kByte, device).zero_();
    device_rows_ = device.is_cpu() ? host_rows_
                                   : at::zeros({batch, row_stride_bytes},
                                               at::TensorOptions(at::kByte).device(device));
  }
  if (!device.is_cpu()) done_.emplace(device.type());
}

void StepSlot::submit(const at::Tensor& packed, SideStream& side) {
  if (!side.exists()) {
    host_packed_.copy_(packed);
    return;
  }
  side.wait_for_compute();
  const c10::StreamGuard on_side(side.stream());
  device_packed_ = packed;
  host_packed_.copy_(packed, /*non_blocking=*/true);
  if (host_rows_.defined()) host_rows_.copy_(device_rows_, /*non_blocking=*/true);
  done_->record(side.stream());
}

void StepSlot::wait() {
  if (done_ && done_->was_marked_for_recording()) done_->synchronize();
}

std::span<const std::int64_t> StepSlot::packed(std::int64_t row) const {
  const std::int64_t width = host_packed_.size(1);
  return {host_packed_.const_data_ptr<std::int64_t>() + row * width,
          static_cast<std::size_t>(width)};
}

std::span<const std::byte> StepSlot::rows(std::int64_t row, std::uint64_t bytes) const {
  const auto* data = reinterpret_cast<const std::byte*>(host_rows_.const_data_ptr<std::uint8_t>());
  return {data + row * host_rows_.size(1), static_cast<std::size_t>(bytes)};
}

}  // namespace kvtool::engine
