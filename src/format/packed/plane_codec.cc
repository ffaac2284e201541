#include "plane_codec.h"

// The mode of literals is an experimental parameter. Only the encoder uses it:
// every zstd since 1.0 reads what it writes.
#define ZSTD_STATIC_LINKING_ONLY
#include <zstd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>

#include "format/bytes.h"
#include "kvtool/base/error.h"

// Chosen when the program starts; sanitized builds have one version, because the
// choice runs before a sanitizer is ready.
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define KVTOOL_VECTORIZED \
  __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define KVTOOL_VECTORIZED
#endif

namespace kvtool::format {
namespace {

// Measured on K/V of SmolLM2-135M in bfloat16 (docs/format.md): match search finds
// little, entropy coding of the exponents nearly all.
constexpr int kCompressionLevel = -20;
// Of noise, one pair of bytes in 256 is alike. Planes that are little better stand as
// they are: what they save is not worth the time that unpacking them takes.
constexpr std::uint64_t kMostLikelyNoise = 160;
constexpr std::size_t kSampleBytes = 2048;
constexpr std::size_t kSampleRun = 64;

KVTOOL_VECTORIZED void split_pairs(const std::uint8_t* __restrict elements, std::size_t count,
                                   std::uint8_t* __restrict high, std::uint8_t* __restrict low) {
  for (std::size_t i = 0; i < count; ++i) {
    std::uint16_t element;
    std::memcpy(&element, elements + 2 * i, sizeof(element));
    high[i] = static_cast<std::uint8_t>(element >> 8);
    low[i] = static_cast<std::uint8_t>(element);
  }
}

KVTOOL_VECTORIZED void merge_pairs(const std::uint8_t* __restrict high,
                                   const std::uint8_t* __restrict low, std::size_t count,
                                   std::uint8_t* __restrict elements) {
  for (std::size_t i = 0; i < count; ++i) {
    const auto element =
        static_cast<std::uint16_t>(std::uint32_t{high[i]} << 8 | std::uint32_t{low[i]});
    std::memcpy(elements + 2 * i, &element, sizeof(element));
  }
}

KVTOOL_VECTORIZED void split_quads(const std::uint8_t* __restrict elements, std::size_t count,
                                   std::uint8_t* __restrict planes) {
  for (std::size_t i = 0; i < count; ++i) {
    std::uint32_t element;
    std::memcpy(&element, elements + 4 * i, sizeof(element));
    planes[i] = static_cast<std::uint8_t>(element >> 24);
    planes[count + i] = static_cast<std::uint8_t>(element >> 16);
    planes[2 * count + i] = static_cast<std::uint8_t>(element >> 8);
    planes[3 * count + i] = static_cast<std::uint8_t>(element);
  }
}

KVTOOL_VECTORIZED void merge_quads(const std::uint8_t* __restrict planes, std::size_t count,
                                   std::uint8_t* __restrict elements) {
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint32_t element =
        std::uint32_t{planes[i]} << 24 | std::uint32_t{planes[count + i]} << 16 |
        std::uint32_t{planes[2 * count + i]} << 8 | std::uint32_t{planes[3 * count + i]};
    std::memcpy(elements + 4 * i, &element, sizeof(element));
  }
}

const std::uint8_t* bytes_of(std::span<const std::byte> span) {
  return reinterpret_cast<const std::uint8_t*>(span.data());
}
std::uint8_t* bytes_of(std::span<std::byte> span) {
  return reinterpret_cast<std::uint8_t*>(span.data());
}

// Whether entropy coding can pay, from a sample over the whole plane: whether two
// of its bytes are alike more often than two bytes of noise by a clear margin.
bool may_compress(std::span<const std::byte> plane) {
  std::array<std::uint32_t, 256> counts{};
  const std::size_t step = std::max(plane.size() / (kSampleBytes / kSampleRun), kSampleRun);
  std::uint64_t sampled = 0;
  for (std::size_t start = 0; start < plane.size(); start += step) {
    const std::size_t end = std::min(start + kSampleRun, plane.size());
    for (std::size_t i = start; i < end; ++i) ++counts[std::to_integer<std::size_t>(plane[i])];
    sampled += end - start;
  }
  std::uint64_t alike = 0;
  for (const std::uint32_t count : counts) alike += std::uint64_t{count} * count;
  return (alike - sampled) * kMostLikelyNoise >= sampled * (sampled - 1);
}

}  // namespace

void split_planes(std::span<const std::byte> elements, std::size_t width,
                  std::span<std::byte> planes) {
  const std::size_t count = elements.size() / width;
  std::uint8_t* out = bytes_of(planes);
  switch (width) {
    case 2: return split_pairs(bytes_of(elements), count, out, out + count);
    case 4: return split_quads(bytes_of(elements), count, out);
    default: return copy_bytes(elements, planes);
  }
}

void merge_planes(std::span<const std::byte> planes, std::size_t width,
                  std::span<std::byte> elements) {
  const std::size_t count = elements.size() / width;
  const std::uint8_t* in = bytes_of(planes);
  switch (width) {
    case 2: return merge_pairs(in, in + count, count, bytes_of(elements));
    case 4: return merge_quads(in, count, bytes_of(elements));
    default: return copy_bytes(planes, elements);
  }
}

struct PlaneCompressor::Context {
  Context() : zstd(ZSTD_createCCtx()) {
    if (zstd == nullptr) throw_environment("not enough memory to compress");
    set(ZSTD_c_compressionLevel, kCompressionLevel);
    // Fast levels leave literals as they are by default, but they are what pays here.
    set(ZSTD_c_literalCompressionMode, ZSTD_ps_enable);
  }
  ~Context() { ZSTD_freeCCtx(zstd); }
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  void set(ZSTD_cParameter parameter, int value) const {
    const std::size_t result = ZSTD_CCtx_setParameter(zstd, parameter, value);
    if (ZSTD_isError(result) != 0) {
      throw_environment(std::string("zstd refuses a setting: ") + ZSTD_getErrorName(result));
    }
  }

  ZSTD_CCtx* zstd;
};

PlaneCompressor::PlaneCompressor() : context_(std::make_unique<Context>()) {}
PlaneCompressor::~PlaneCompressor() = default;

std::size_t PlaneCompressor::compress(std::span<const std::byte> plane, std::span<std::byte> out) {
  if (may_compress(plane)) {
    const std::size_t size =
        ZSTD_compress2(context_->zstd, out.data(), out.size(), plane.data(), plane.size());
    // An error says that the frame would not fit: the plane stands as it is.
    if (ZSTD_isError(size) == 0 && size < plane.size()) return size;
  }
  copy_bytes(plane, out);
  return plane.size();
}

struct PlaneDecompressor::Context {
  Context() : zstd(ZSTD_createDCtx()) {
    if (zstd == nullptr) throw_environment("not enough memory to decompress");
  }
  ~Context() { ZSTD_freeDCtx(zstd); }
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  ZSTD_DCtx* zstd;
};

PlaneDecompressor::PlaneDecompressor() : context_(std::make_unique<Context>()) {}
PlaneDecompressor::~PlaneDecompressor() = default;

bool PlaneDecompressor::decompress(std::span<const std::byte> frame, std::span<std::byte> plane) {
  if (ZSTD_findFrameCompressedSize(frame.data(), frame.size()) != frame.size()) return false;
  const std::size_t size =
      ZSTD_decompressDCtx(context_->zstd, plane.data(), plane.size(), frame.data(), frame.size());
  return ZSTD_isError(size) == 0 && size == plane.size();
}

}  // namespace kvtool::format
