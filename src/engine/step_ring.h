// Host-side slots through which a step's results leave the device. Filling a
// slot never waits for the device: on CUDA the copies run on a side stream and
// an event says when they are done; on the CPU the model writes into the slot.
#pragma once

#include <ATen/ATen.h>
#include <c10/core/Event.h>
#include <c10/core/Stream.h>

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "engine/row_layout.h"
#include "kvtool/format/recording.h"

namespace kvtool::engine {

// The copy stream of a device; nothing on the CPU.
class SideStream {
 public:
  explicit SideStream(at::Device device);
  [[nodiscard]] bool exists() const { return stream_.has_value(); }
  [[nodiscard]] at::Device device() const { return device_; }
  // Runs after everything queued so far on the device's current stream.
  void wait_for_compute();
  [[nodiscard]] c10::Stream stream() const { return *stream_; }

 private:
  at::Device device_;
  std::optional<c10::Stream> stream_;
};

// A step of a row's reference that was read with its K/V.
struct ReferenceStep {
  format::StepStats stats;
  std::span<const std::byte> delta;  // empty: none was read
};

// One step (or prefill) of the whole batch on its way to the sinks.
class StepSlot {
 public:
  // index: its place among the slots. with_rows: room for K/V rows, u8 [B, row_stride_bytes].
  StepSlot(std::size_t index, std::int64_t batch, std::int64_t packed_width,
           std::int64_t row_stride_bytes, bool with_rows, at::Device device);

  [[nodiscard]] std::size_t index() const { return index_; }

  // Where the device puts rows: on the CPU this is the host buffer itself.
  [[nodiscard]] const at::Tensor& device_rows() const { return device_rows_; }

  // Queues the copy of device_rows() and `packed` (LogitStats::pack) to the host.
  void submit(const at::Tensor& packed, SideStream& side);
  // Waits until the host buffers are filled. Any thread.
  void wait();

  [[nodiscard]] std::span<const std::int64_t> packed(std::int64_t row) const;
  [[nodiscard]] std::span<const std::byte> rows(std::int64_t row, std::uint64_t bytes) const;

  // Set by the producer before submit().
  std::int64_t step = -1;  // -1: prefill
  std::int64_t elapsed_ns = 0;
  std::vector<std::int32_t> input_tokens;  // per row; empty for the prefill
  std::vector<bool> active;                // rows that this step belongs to
  // Per row, or empty; their bytes stay until the slot is acquired again.
  std::vector<ReferenceStep> references;

 private:
  std::size_t index_;
  at::Tensor host_packed_;  // i64 [B, packed_width], pinned on CUDA
  at::Tensor host_rows_;    // u8 [B, row_stride_bytes], pinned on CUDA
  at::Tensor device_rows_;
  at::Tensor device_packed_;  // keeps the source alive until the copy is done
  std::optional<c10::Event> done_;
};

}  // namespace kvtool::engine
