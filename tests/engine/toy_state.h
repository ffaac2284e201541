// What a toy run in float32 told its sink, as tensors.
#pragma once

#include <ATen/ATen.h>

#include <cstring>
#include <vector>

#include "engine/memory_row.h"
#include "engine/toy_module.h"

namespace kvtool::engine {

inline at::Tensor elements(const std::vector<std::byte>& bytes) {
  at::Tensor tensor = at::empty({static_cast<std::int64_t>(bytes.size() / sizeof(float))});
  std::memcpy(tensor.mutable_data_ptr(), bytes.data(), bytes.size());
  return tensor;
}

// [heads, positions, dim] of one layer, from the prompt and every step's delta.
inline at::Tensor told_state(const MemoryRow& row, std::int64_t layer, bool value) {
  constexpr std::int64_t kSize = ToyModule::kHeads * ToyModule::kDim;
  const auto index = static_cast<std::size_t>(layer);
  std::vector<at::Tensor> parts{elements(value ? row.prompt_values[index] : row.prompt_keys[index])
                                    .view({ToyModule::kHeads, -1, ToyModule::kDim})};
  for (const auto& delta : row.deltas) {
    parts.push_back(elements(delta)
                        .narrow(0, (2 * layer + (value ? 1 : 0)) * kSize, kSize)
                        .view({ToyModule::kHeads, 1, ToyModule::kDim}));
  }
  return at::cat(parts, 1);
}

inline at::Tensor final_state(const MemoryRow& row, std::int64_t layer, bool value) {
  const auto index = static_cast<std::size_t>(layer);
  return elements(value ? row.final_values[index] : row.final_keys[index])
      .view({ToyModule::kHeads, -1, ToyModule::kDim});
}

}  // namespace kvtool::engine
