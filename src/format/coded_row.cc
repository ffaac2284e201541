#include "kvtool/format/coded_row.h"

#include <string>
#include <vector>

#include "kvtool/base/checked.h"
#include "kvtool/base/error.h"

namespace kvtool::format {
namespace {

unsigned half_byte(std::span<const std::byte> source, std::size_t index) {
  const auto both = std::to_integer<unsigned>(source[index / 2]);
  return index % 2 == 0 ? both & 0xFU : both >> 4U;
}

}  // namespace

void decode_codes(CodeType type, std::span<const std::byte> source, std::span<float> target) {
  for (std::size_t i = 0; i < target.size(); ++i) {
    switch (type) {
      case CodeType::kFloat8E4M3:
        decode_to_float(DType::kFloat8E4M3, source.subspan(i, 1), target.subspan(i, 1));
        break;
      case CodeType::kFloat8E5M2:
        decode_to_float(DType::kFloat8E5M2, source.subspan(i, 1), target.subspan(i, 1));
        break;
      case CodeType::kInt8: target[i] = std::to_integer<std::int8_t>(source[i]); break;
      case CodeType::kUInt8: target[i] = std::to_integer<std::uint8_t>(source[i]); break;
      case CodeType::kInt4: {
        const auto bits = static_cast<int>(half_byte(source, i));
        target[i] = static_cast<float>(bits >= 8 ? bits - 16 : bits);
        break;
      }
      case CodeType::kUInt4: target[i] = static_cast<float>(half_byte(source, i)); break;
    }
  }
}

void decode_row(const RowCode& code, std::span<const std::byte> row, std::span<float> target) {
  const auto dim = static_cast<std::uint32_t>(target.size());
  if (row.size() != coded_row_bytes(code, dim)) {
    throw_misuse("a row of " + std::to_string(row.size()) + " bytes does not hold " +
                 std::to_string(dim) + " codes and their scales");
  }
  const std::uint64_t bytes = code_bytes(code.type, dim);
  decode_codes(code.type, row.subspan(0, bytes), target);
  const std::size_t size = element_size(code.scale_dtype);
  const auto behind = row.subspan(align_up(bytes, size));
  std::vector<float> numbers(behind.size() / size);
  decode_to_float(code.scale_dtype, behind, numbers);
  const std::size_t groups = numbers.size() / (code.has_offsets ? 2 : 1);
  for (std::size_t i = 0; i < target.size(); ++i) {
    const std::size_t group = i / code.group_channels;
    const double offset = code.has_offsets ? double{numbers[groups + group]} : 0.0;
    target[i] = static_cast<float>(double{target[i]} * double{numbers[group]} + offset);
  }
}

}  // namespace kvtool::format
