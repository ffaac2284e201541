#include "engine/gathered_ids.h"

#include <algorithm>

#include "engine/host_memory.h"
#include "kvtool/format/logit_sample.h"

namespace kvtool::engine {

GatheredIds::GatheredIds(std::uint32_t vocab_size, const GatheredLogits& gathered,
                         std::int64_t rows, std::size_t buffers, at::Device device)
    : vocab_size_(vocab_size), gathered_(gathered), rows_(rows) {
  if (gathered_.count() == 0) return;
  for (std::size_t buffer = 0; buffer < buffers; ++buffer) {
    host_.push_back(host_buffer({rows, gathered_.columns()}, at::kLong, device).zero_());
  }
  if (!device.is_cpu()) {
    device_ = at::empty({rows, gathered_.columns()}, at::TensorOptions(at::kLong).device(device));
  }
}

void GatheredIds::set_sample(std::size_t buffer, std::uint64_t token) {
  if (gathered_.sample == 0) return;
  const std::vector<std::int32_t> ids = sample_at(token);
  for (std::int64_t row = 0; row < rows_; ++row) write_sample(buffer, row, ids);
}

void GatheredIds::set_sample_of_row(std::size_t buffer, std::int64_t row, std::uint64_t token) {
  if (gathered_.sample > 0) write_sample(buffer, row, sample_at(token));
}

void GatheredIds::set_reference_top(std::size_t buffer, std::int64_t row,
                                    std::span<const std::int32_t> ids) {
  if (gathered_.at_reference_top == 0) return;
  std::copy(ids.begin(), ids.end(), row_of(buffer, row));
}

at::Tensor GatheredIds::to_device(std::size_t buffer) {
  if (gathered_.count() == 0) return {};
  if (!device_.defined()) return host_[buffer];
  device_.copy_(host_[buffer], /*non_blocking=*/true);
  return device_;
}

void GatheredIds::write_sample(std::size_t buffer, std::int64_t row,
                               std::span<const std::int32_t> ids) {
  std::copy(ids.begin(), ids.end(), row_of(buffer, row) + gathered_.at_reference_top);
}

std::vector<std::int32_t> GatheredIds::sample_at(std::uint64_t token) const {
  return format::sampled_ids(vocab_size_, static_cast<std::uint32_t>(gathered_.sample), token);
}

std::int64_t* GatheredIds::row_of(std::size_t buffer, std::int64_t row) const {
  return host_[buffer].mutable_data_ptr<std::int64_t>() + row * gathered_.columns();
}

}  // namespace kvtool::engine
