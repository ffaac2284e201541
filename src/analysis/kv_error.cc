// One pass over both sides, chunk by chunk: decode to float32 on the stack, set
// aside what is not finite, then sum. Chunks that are equal byte for byte (the
// usual case on the recording device) need the reference alone.
#include "kvtool/analysis/kv_error.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "kvtool/base/error.h"
#include "kvtool/base/vectorized.h"
#include "lanes.h"

namespace kvtool::analysis {
namespace {

// Both decoded chunks, both sources and the distances stay in the level-1 cache.
constexpr std::size_t kChunk = 1024;
static_assert(kChunk % kLanes == 0);

struct Sums {
  Lanes error{};
  Lanes reference{};
  Lanes error_reference{};
  Lanes max_abs{};
  Lanes max_reference{};
};

// One chunk of both sides.
struct Chunk {
  alignas(64) std::array<float, kChunk> live;
  alignas(64) std::array<float, kChunk> reference;
  alignas(64) std::array<std::uint32_t, kChunk> distances;
};

// --- Decoding ---------------------------------------------------------------
// As decode_to_float(), written so that every element takes the same path.

// kMantissa stored bits, exponent bias kBias; codes from kSpecial on are NaN or Inf.
template <typename Bits, int kMantissa, std::uint32_t kBias, std::uint32_t kSpecial>
[[gnu::always_inline]] inline void decode_small(const std::byte* source, float* target,
                                                std::size_t size) {
  constexpr int kBits = 8 * sizeof(Bits);
  constexpr int kShift = 23 - kMantissa;
  constexpr std::uint32_t kRebias = (127U - kBias) << 23;
  // The leading 1 that a subnormal lacks.
  constexpr std::uint32_t kLeadingOne = kRebias + (1U << 23);
  for (std::size_t i = 0; i < size; ++i) {
    Bits bits;
    std::memcpy(&bits, source + i * sizeof bits, sizeof bits);
    const std::uint32_t code = bits & ((1U << (kBits - 1)) - 1U);
    const std::uint32_t sign = static_cast<std::uint32_t>(bits >> (kBits - 1)) << 31;
    const std::uint32_t magnitude = code << kShift;
    const auto subnormal = std::bit_cast<std::uint32_t>(
        std::bit_cast<float>(magnitude + kLeadingOne) - std::bit_cast<float>(kLeadingOne));
    const std::uint32_t finite = select(code < (1U << kMantissa), subnormal, magnitude + kRebias);
    target[i] =
        std::bit_cast<float>(select(code >= kSpecial, magnitude | 0x7f800000U, finite) | sign);
  }
}

KVTOOL_VECTORIZED void decode_bfloat16(const std::byte* source, float* target, std::size_t size) {
  for (std::size_t i = 0; i < size; ++i) {
    std::uint16_t bits;
    std::memcpy(&bits, source + i * sizeof bits, sizeof bits);
    target[i] = std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
  }
}
KVTOOL_VECTORIZED void decode_float16(const std::byte* source, float* target, std::size_t size) {
  decode_small<std::uint16_t, 10, 15, 0x7c00>(source, target, size);
}
KVTOOL_VECTORIZED void decode_e4m3(const std::byte* source, float* target, std::size_t size) {
  decode_small<std::uint8_t, 3, 7, 0x7f>(source, target, size);
}
KVTOOL_VECTORIZED void decode_e5m2(const std::byte* source, float* target, std::size_t size) {
  decode_small<std::uint8_t, 2, 15, 0x7c>(source, target, size);
}

void decode(DType dtype, std::span<const std::byte> source, float* target) {
  const std::size_t size = source.size() / element_size(dtype);
  switch (dtype) {
    case DType::kFloat32: std::memcpy(target, source.data(), source.size()); return;
    case DType::kFloat16: return decode_float16(source.data(), target, size);
    case DType::kBFloat16: return decode_bfloat16(source.data(), target, size);
    case DType::kFloat8E4M3: return decode_e4m3(source.data(), target, size);
    case DType::kFloat8E5M2: return decode_e5m2(source.data(), target, size);
  }
}

// --- Distances --------------------------------------------------------------

// Sign and magnitude as an integer that counts representable values from 0.
template <typename Bits>
std::int64_t ordered(Bits bits) {
  constexpr Bits kMagnitude = static_cast<Bits>(static_cast<Bits>(~Bits{0}) >> 1);
  const auto magnitude = static_cast<std::int64_t>(bits & kMagnitude);
  return bits > kMagnitude ? -magnitude : magnitude;
}

// Counts elements whose bits differ and writes the distance of every element.
template <typename Bits>
[[gnu::always_inline]] inline std::uint32_t measure_distances(const std::byte* live,
                                                              const std::byte* reference,
                                                              std::uint32_t* distances,
                                                              std::size_t size) {
  // 16-bit types need no 64-bit arithmetic, which would halve the vectors' width.
  using Order = std::conditional_t<sizeof(Bits) == 4, std::int64_t, std::int32_t>;
  std::uint32_t differing = 0;
  for (std::size_t i = 0; i < size; ++i) {
    Bits a;
    Bits b;
    std::memcpy(&a, live + i * sizeof a, sizeof a);
    std::memcpy(&b, reference + i * sizeof b, sizeof b);
    differing += a != b ? 1U : 0U;
    const Order distance = static_cast<Order>(ordered(a)) - static_cast<Order>(ordered(b));
    distances[i] = static_cast<std::uint32_t>(distance < 0 ? -distance : distance);
  }
  return differing;
}

KVTOOL_VECTORIZED std::uint32_t distances8(const std::byte* live, const std::byte* reference,
                                           std::uint32_t* distances, std::size_t size) {
  return measure_distances<std::uint8_t>(live, reference, distances, size);
}
KVTOOL_VECTORIZED std::uint32_t distances16(const std::byte* live, const std::byte* reference,
                                            std::uint32_t* distances, std::size_t size) {
  return measure_distances<std::uint16_t>(live, reference, distances, size);
}
KVTOOL_VECTORIZED std::uint32_t distances32(const std::byte* live, const std::byte* reference,
                                            std::uint32_t* distances, std::size_t size) {
  return measure_distances<std::uint32_t>(live, reference, distances, size);
}

std::uint32_t measure_distances(std::size_t element_bytes, std::span<const std::byte> live,
                                std::span<const std::byte> reference, Chunk& chunk) {
  const std::size_t size = live.size() / element_bytes;
  const auto measure = element_bytes == 1   ? distances8
                       : element_bytes == 2 ? distances16
                                            : distances32;
  return measure(live.data(), reference.data(), chunk.distances.data(), size);
}

// --- Sums -------------------------------------------------------------------

std::uint32_t is_nonfinite(float value) {
  return (std::bit_cast<std::uint32_t>(value) & 0x7fffffffU) >= 0x7f800000U ? 1U : 0U;
}

KVTOOL_VECTORIZED std::uint32_t count_nonfinite(const float* live, const float* reference,
                                                std::size_t size) {
  std::uint32_t count = 0;
  for (std::size_t i = 0; i < size; ++i)
    count += is_nonfinite(live[i]) | is_nonfinite(reference[i]);
  return count;
}

// Takes out pairs with a NaN or Inf. Returns how many are left.
std::size_t set_aside_nonfinite(Chunk& chunk, std::size_t size) {
  std::size_t kept = 0;
  for (std::size_t i = 0; i < size; ++i) {
    if ((is_nonfinite(chunk.live[i]) | is_nonfinite(chunk.reference[i])) != 0) continue;
    chunk.live[kept] = chunk.live[i];
    chunk.reference[kept] = chunk.reference[i];
    chunk.distances[kept++] = chunk.distances[i];
  }
  return kept;
}

[[gnu::always_inline]] inline void keep_larger(const Vector& values, Vector& maxima) {
  const Vector magnitudes = values < 0.0 ? -values : values;
  maxima = maxima < magnitudes ? magnitudes : maxima;
}

KVTOOL_VECTORIZED void accumulate_reference(const float* reference, std::size_t padded_size,
                                            Sums& sums) {
  Lanes squares = sums.reference;
  Lanes maxima = sums.max_reference;
  for (std::size_t i = 0; i < padded_size; i += kLanes) {
    for (std::size_t part = 0; part < kVectors; ++part) {
      Vector values;
      load(reference + i + part * kWidth, values);
      squares[part] += values * values;
      keep_larger(values, maxima[part]);
    }
  }
  sums.reference = squares;
  sums.max_reference = maxima;
}

KVTOOL_VECTORIZED void accumulate_error(const float* live, const float* reference,
                                        std::size_t padded_size, Sums& sums) {
  Lanes squares = sums.error;
  Lanes products = sums.error_reference;
  Lanes maxima = sums.max_abs;
  for (std::size_t i = 0; i < padded_size; i += kLanes) {
    for (std::size_t part = 0; part < kVectors; ++part) {
      Vector values;
      Vector errors;
      load(reference + i + part * kWidth, values);
      load(live + i + part * kWidth, errors);
      errors -= values;
      squares[part] += errors * errors;
      products[part] += errors * values;
      keep_larger(errors, maxima[part]);
    }
  }
  sums.error = squares;
  sums.error_reference = products;
  sums.max_abs = maxima;
}

std::size_t pad(std::array<float, kChunk>& values, std::size_t size) {
  const std::size_t padded_size = (size + kLanes - 1) / kLanes * kLanes;
  std::fill(values.begin() + static_cast<std::ptrdiff_t>(size),
            values.begin() + static_cast<std::ptrdiff_t>(padded_size), 0.0F);
  return padded_size;
}

// --- Two sides --------------------------------------------------------------

struct Side {
  DType dtype;
  std::span<const std::byte> bytes;

  [[nodiscard]] std::size_t size() const { return bytes.size() / element_size(dtype); }
  [[nodiscard]] Side part(std::size_t first, std::size_t count) const {
    const std::size_t width = element_size(dtype);
    return {dtype, bytes.subspan(first * width, count * width)};
  }
};

// Equal bytes: every figure but the reference's own stays 0.
void compare_equal(const Side& reference, Chunk& chunk, Sums& sums, KvError& error) {
  std::size_t size = reference.size();
  decode(reference.dtype, reference.bytes, chunk.reference.data());
  std::uint32_t nonfinite = count_nonfinite(chunk.reference.data(), chunk.reference.data(), size);
  if (nonfinite > 0) {
    error.nonfinite += nonfinite;
    (void)std::remove_if(chunk.reference.begin(),
                         chunk.reference.begin() + static_cast<std::ptrdiff_t>(size),
                         [](float value) { return is_nonfinite(value) != 0; });
    size -= nonfinite;
  }
  error.ulps.add(0, size);
  error.moments.add(co_moments(std::span(chunk.reference).first(size)));
  accumulate_reference(chunk.reference.data(), pad(chunk.reference, size), sums);
}

// The live side's decoded values rounded to the reference's type; counts values
// that differ before rounding.
std::uint32_t measure_rounded_distances(const Side& reference, Chunk& chunk) {
  const std::size_t size = reference.size();
  std::array<std::byte, kChunk * sizeof(float)> rounded;
  const auto target = std::span(rounded).first(reference.bytes.size());
  encode_from_float(reference.dtype, std::span(chunk.live).first(size), target);
  measure_distances(element_size(reference.dtype), target, reference.bytes, chunk);
  std::uint32_t differing = 0;
  for (std::size_t i = 0; i < size; ++i) differing += chunk.live[i] == chunk.reference[i] ? 0U : 1U;
  return differing;
}

void compare_differing(const Side& live, const Side& reference, Chunk& chunk, Sums& sums,
                       KvError& error) {
  std::size_t size = reference.size();
  decode(live.dtype, live.bytes, chunk.live.data());
  decode(reference.dtype, reference.bytes, chunk.reference.data());
  error.differing +=
      live.dtype == reference.dtype
          ? measure_distances(element_size(live.dtype), live.bytes, reference.bytes, chunk)
          : measure_rounded_distances(reference, chunk);

  const std::uint32_t nonfinite = count_nonfinite(chunk.live.data(), chunk.reference.data(), size);
  if (nonfinite > 0) {
    error.nonfinite += nonfinite;
    size = set_aside_nonfinite(chunk, size);
  }
  error.ulps.add(std::span<const std::uint32_t>(chunk.distances).first(size));
  error.moments.add(
      co_moments(std::span(chunk.live).first(size), std::span(chunk.reference).first(size)));
  pad(chunk.live, size);
  const std::size_t padded_size = pad(chunk.reference, size);
  accumulate_reference(chunk.reference.data(), padded_size, sums);
  accumulate_error(chunk.live.data(), chunk.reference.data(), padded_size, sums);
}

void require_equal_sizes(const Side& live, const Side& reference) {
  const bool whole = live.bytes.size() % element_size(live.dtype) == 0 &&
                     reference.bytes.size() % element_size(reference.dtype) == 0;
  if (whole && live.size() == reference.size()) return;
  const auto describe = [](const Side& side) {
    return std::to_string(side.bytes.size()) + " bytes of " + std::string(dtype_name(side.dtype));
  };
  throw_incompatible("K/V cannot be compared element by element: " + describe(live) + " against " +
                     describe(reference));
}

double ratio(double numerator, double denominator) {
  if (denominator > 0.0) return numerator / denominator;
  return numerator > 0.0 ? std::numeric_limits<double>::infinity() : 0.0;
}

}  // namespace

std::string_view kv_kind_name(KvKind kind) { return kind == KvKind::kKey ? "key" : "value"; }

double KvError::relative_l2() const {
  return std::sqrt(ratio(sum_squared_error, sum_squared_reference));
}

double KvError::relative_max() const { return ratio(max_abs, max_reference); }

double KvError::cosine() const {
  // live = reference + error
  const double product = sum_squared_reference + sum_error_reference;
  const double live = sum_squared_reference + 2.0 * sum_error_reference + sum_squared_error;
  if (live <= 0.0 && sum_squared_reference <= 0.0) return 1.0;
  if (live <= 0.0 || sum_squared_reference <= 0.0) return 0.0;
  return std::clamp(product / std::sqrt(live * sum_squared_reference), -1.0, 1.0);
}

double KvError::scale_error() const {
  return sum_squared_reference > 0.0 ? sum_error_reference / sum_squared_reference : 0.0;
}

double KvError::ulp_p99() const { return ulps.quantile(0.99); }

double KvError::floor_ratio() const {
  return std::sqrt(ratio(sum_squared_error, sum_squared_floor));
}

void KvError::add(const KvError& other) {
  elements += other.elements;
  differing += other.differing;
  nonfinite += other.nonfinite;
  max_abs = std::max(max_abs, other.max_abs);
  max_reference = std::max(max_reference, other.max_reference);
  sum_squared_error += other.sum_squared_error;
  sum_squared_reference += other.sum_squared_reference;
  sum_error_reference += other.sum_error_reference;
  sum_squared_floor += other.sum_squared_floor;
  moments.add(other.moments);
  ulps.add(other.ulps);
}

double storage_rounding_floor(DType dtype) {
  return std::ldexp(1.0, -(mantissa_bits(dtype) + 1)) / std::sqrt(7.0);
}

void compare_elements(DType live_dtype, std::span<const std::byte> live, DType reference_dtype,
                      std::span<const std::byte> reference, KvError& error) {
  const Side live_side{live_dtype, live};
  const Side reference_side{reference_dtype, reference};
  require_equal_sizes(live_side, reference_side);

  UlpHistogram memory = std::move(error.ulps);
  memory.clear();
  error = KvError{};
  error.ulps = std::move(memory);
  error.elements = reference_side.size();

  Sums sums;
  Chunk chunk;
  for (std::size_t first = 0; first < error.elements; first += kChunk) {
    const std::size_t size = std::min<std::size_t>(kChunk, error.elements - first);
    const Side live_part = live_side.part(first, size);
    const Side reference_part = reference_side.part(first, size);
    if (live_dtype == reference_dtype &&
        std::memcmp(live_part.bytes.data(), reference_part.bytes.data(), live_part.bytes.size()) ==
            0) {
      compare_equal(reference_part, chunk, sums, error);
    } else {
      compare_differing(live_part, reference_part, chunk, sums, error);
    }
  }

  error.max_abs = maximum(sums.max_abs);
  error.max_reference = maximum(sums.max_reference);
  error.sum_squared_error = sum(sums.error);
  error.sum_squared_reference = sum(sums.reference);
  error.sum_error_reference = sum(sums.error_reference);
  const double floor = storage_rounding_floor(reference_dtype);
  error.sum_squared_floor = floor * floor * error.sum_squared_reference;
}

KvError compare_elements(DType live_dtype, std::span<const std::byte> live, DType reference_dtype,
                         std::span<const std::byte> reference) {
  KvError error;
  compare_elements(live_dtype, live, reference_dtype, reference, error);
  return error;
}

}  // namespace kvtool::analysis
