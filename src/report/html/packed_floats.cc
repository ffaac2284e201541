#include "html/packed_floats.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <string_view>

namespace kvtool::report::html {
namespace {

constexpr std::string_view kAlphabet =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
constexpr unsigned kDroppedBits = 14;
constexpr std::uint32_t kQuietNan = 0x7FC00000U;

std::uint32_t upper_bits(double value) {
  const auto single = static_cast<float>(value);
  if (std::isnan(single)) return kQuietNan >> kDroppedBits;
  const auto bits = std::bit_cast<std::uint32_t>(single);
  if (std::isinf(single)) return bits >> kDroppedBits;
  // A carry out of the mantissa raises the exponent, as rounding up should.
  return (bits + (1U << (kDroppedBits - 1))) >> kDroppedBits;
}

}  // namespace

void append_packed(std::string& target, double value) {
  const std::uint32_t bits = upper_bits(value);
  for (const unsigned shift : {12U, 6U, 0U}) target += kAlphabet[(bits >> shift) & 63U];
}

}  // namespace kvtool::report::html
