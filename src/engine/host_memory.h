// Host memory that a device copies to and from without a detour.
#pragma once

#include <ATen/ATen.h>
#include <c10/core/Stream.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <cstddef>
#include <span>

namespace kvtool::engine {

// Pinned when `device` is no CPU, so that its copies can run asynchronously.
inline at::Tensor host_buffer(at::IntArrayRef sizes, at::ScalarType dtype, at::Device device) {
  return at::empty(sizes, at::TensorOptions(dtype).pinned_memory(!device.is_cpu()));
}

// The elements of a contiguous host tensor.
inline std::span<std::byte> bytes_of(const at::Tensor& host) {
  return {static_cast<std::byte*>(host.mutable_data_ptr()), host.nbytes()};
}

// The stream that the calling thread's operations on `device` are queued on.
inline c10::Stream current_stream(at::Device device) {
  return c10::impl::VirtualGuardImpl(device.type()).getStream(device);
}

}  // namespace kvtool::engine
