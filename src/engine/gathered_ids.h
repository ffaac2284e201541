// Which logits of a row are gathered beside its statistics: those at the ids that a reference
// holds as its top-k, then those of the sample (format/logit_sample.h).
#pragma once

#include <ATen/ATen.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace kvtool::engine {

struct GatheredLogits {
  std::int64_t at_reference_top = 0;
  std::int64_t sample = 0;

  [[nodiscard]] std::int64_t count() const { return at_reference_top + sample; }
  // Ids of a row as tensors hold them: an even number, so that two float32 fill 64 bits.
  [[nodiscard]] std::int64_t columns() const { return (count() + 1) / 2 * 2; }
};

// The ids of a batch's rows on their way to the device, in one buffer for each step that is under
// way: it may be filled again once the device has read it.
class GatheredIds {
 public:
  // rows: of the batch, or 1 where all have the same ids.
  GatheredIds(std::uint32_t vocab_size, const GatheredLogits& gathered, std::int64_t rows,
              std::size_t buffers, at::Device device);

  // The sample at token number `token` (0: the prefill's), for all rows or for one.
  void set_sample(std::size_t buffer, std::uint64_t token);
  void set_sample_of_row(std::size_t buffer, std::int64_t row, std::uint64_t token);
  void set_reference_top(std::size_t buffer, std::int64_t row, std::span<const std::int32_t> ids);
  // i64 [rows, columns()]: on a CPU the buffer itself, elsewhere one tensor for all buffers whose
  // copy is queued. Undefined where nothing is gathered.
  [[nodiscard]] at::Tensor to_device(std::size_t buffer);

 private:
  void write_sample(std::size_t buffer, std::int64_t row, std::span<const std::int32_t> ids);
  [[nodiscard]] std::vector<std::int32_t> sample_at(std::uint64_t token) const;
  [[nodiscard]] std::int64_t* row_of(std::size_t buffer, std::int64_t row) const;

  std::uint32_t vocab_size_;
  GatheredLogits gathered_;
  std::int64_t rows_;
  std::vector<at::Tensor> host_;  // i64 [rows, columns()], pinned on CUDA
  at::Tensor device_;             // undefined on the CPU
};

}  // namespace kvtool::engine
