// Walks coded rows on a CPU, on all threads.
#pragma once

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace kvtool::engine {

// Whether each_row_on_cpu() can walk them: the numbers of a row lie side by side.
[[nodiscard]] inline bool are_rows_on_cpu(const at::Tensor& codes, const at::Tensor& rows) {
  return rows.is_cpu() && rows.stride(-1) == 1 && codes.stride(-1) == 1;
}

// Where row `index` of [.., rows, dim] begins, in elements.
[[nodiscard]] inline std::int64_t row_offset(const at::Tensor& tensor, std::int64_t index) {
  std::int64_t offset = 0;
  for (std::int64_t dim = tensor.dim() - 2; dim >= 0; --dim) {
    offset += index % tensor.size(dim) * tensor.stride(dim);
    index /= tensor.size(dim);
  }
  return offset;
}

// codes [.., rows, dim], scales f32 [.., rows, 1] and rows [.., rows, dim] of the same leading
// sizes: calls `visit(codes of the row, its scale, room for dim floats, where the row goes)`.
template <typename Code, typename Visit>
void each_row_on_cpu(const at::Tensor& codes, const at::Tensor& scales, const at::Tensor& rows,
                     const Visit& visit) {
  constexpr std::int64_t kGrainRows = 256;  // that a thread takes at least
  const auto* code = static_cast<const Code*>(codes.const_data_ptr());
  const auto* scale = scales.const_data_ptr<float>();
  auto* out = static_cast<char*>(rows.mutable_data_ptr());
  const auto element = static_cast<std::int64_t>(rows.element_size());
  const std::int64_t run = rows.size(-2);
  at::parallel_for(0, scales.numel(), kGrainRows, [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> wide(static_cast<std::size_t>(rows.size(-1)));
    while (begin < end) {
      const std::int64_t count = std::min(end - begin, run - begin % run);
      const std::int64_t from = row_offset(codes, begin);
      const std::int64_t factor = row_offset(scales, begin);
      const std::int64_t to = row_offset(rows, begin);
      for (std::int64_t i = 0; i < count; ++i) {
        visit(code + from + i * codes.stride(-2), scale[factor + i * scales.stride(-2)],
              wide.data(), out + (to + i * rows.stride(-2)) * element);
      }
      begin += count;
    }
  });
}

}  // namespace kvtool::engine
