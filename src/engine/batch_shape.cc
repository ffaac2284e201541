#include "engine/batch_shape.h"

#include <algorithm>
#include <limits>
#include <string>

#include "kvtool/base/error.h"

namespace kvtool::engine {

BatchShape::BatchShape(std::vector<std::span<const std::int32_t>> prompts,
                       std::int64_t padded_length, std::int64_t capacity)
    : prompts_(std::move(prompts)), padded_length_(padded_length), capacity_(capacity) {
  if (prompts_.empty()) throw_misuse("a batch needs at least one prompt");
  for (std::int64_t row = 0; row < rows(); ++row) {
    if (prompt_length(row) == 0) {
      throw_misuse("prompt " + std::to_string(row) + " of the batch has no token");
    }
    if (prompt_length(row) > padded_length_) {
      throw_misuse("prompt " + std::to_string(row) + " of the batch has " +
                   std::to_string(prompt_length(row)) +
                   " tokens, more than the batch's length of " + std::to_string(padded_length_));
    }
  }
  if (capacity_ < padded_length_) throw_misuse("the cache is shorter than the prompts");
}

std::int64_t BatchShape::prompt_length(std::int64_t row) const {
  return static_cast<std::int64_t>(prompts_[static_cast<std::size_t>(row)].size());
}

std::int64_t BatchShape::padding(std::int64_t row) const {
  return padded_length_ - prompt_length(row);
}

bool BatchShape::is_padded() const {
  for (std::int64_t row = 0; row < rows(); ++row) {
    if (padding(row) > 0) return true;
  }
  return false;
}

at::Tensor BatchShape::input_ids(at::Device device) const {
  at::Tensor ids = at::zeros({rows(), padded_length_}, at::kLong);
  for (std::int64_t row = 0; row < rows(); ++row) {
    const auto& prompt = prompts_[static_cast<std::size_t>(row)];
    std::copy(prompt.begin(), prompt.end(),
              ids.data_ptr<std::int64_t>() + row * padded_length_ + padding(row));
  }
  return ids.to(device);
}

at::Tensor BatchShape::position_ids(at::Device device) const {
  at::Tensor positions = at::zeros({rows(), padded_length_}, at::kLong);
  for (std::int64_t row = 0; row < rows(); ++row) {
    positions.select(0, row)
        .narrow(0, padding(row), prompt_length(row))
        .copy_(at::arange(prompt_length(row), at::kLong));
  }
  return positions.to(device);
}

at::Tensor BatchShape::first_step_positions(at::Device device) const {
  at::Tensor positions = at::empty({rows(), 1}, at::kLong);
  for (std::int64_t row = 0; row < rows(); ++row) {
    positions.data_ptr<std::int64_t>()[row] = prompt_length(row);
  }
  return positions.to(device);
}

at::Tensor BatchShape::padding_bias(at::ScalarType dtype, at::Device device) const {
  at::Tensor bias = at::zeros({rows(), 1, 1, capacity_}, at::TensorOptions(dtype));
  for (std::int64_t row = 0; row < rows(); ++row) {
    bias.select(0, row).narrow(2, 0, padding(row)).fill_(-std::numeric_limits<double>::infinity());
  }
  return bias.to(device);
}

}  // namespace kvtool::engine
