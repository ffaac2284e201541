// Elements as byte planes, and planes as zstd frames. docs/format.md, "Packed files".
#pragma once

#include <cstddef>
#include <memory>
#include <span>

namespace kvtool::format {

// Byte p of every element, most significant first, stands in plane p; the planes
// follow one another. width is 1, 2 or 4; both spans have the same size, a multiple of it.
// Why planes: sign and exponent repeat, the mantissa's last bits are noise.
void split_planes(std::span<const std::byte> elements, std::size_t width,
                  std::span<std::byte> planes);
void merge_planes(std::span<const std::byte> planes, std::size_t width,
                  std::span<std::byte> elements);

// Not thread-safe. Error kEnvironment when zstd has no memory.
class PlaneCompressor {
 public:
  PlaneCompressor();
  ~PlaneCompressor();
  PlaneCompressor(const PlaneCompressor&) = delete;
  PlaneCompressor& operator=(const PlaneCompressor&) = delete;

  // Puts the plane into `out`, which has its size, as it is where compression does not
  // pay. Returns how many bytes of `out` it takes: fewer than the plane's, or as many.
  [[nodiscard]] std::size_t compress(std::span<const std::byte> plane, std::span<std::byte> out);

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

// Not thread-safe. Error kEnvironment when zstd has no memory.
class PlaneDecompressor {
 public:
  PlaneDecompressor();
  ~PlaneDecompressor();
  PlaneDecompressor(const PlaneDecompressor&) = delete;
  PlaneDecompressor& operator=(const PlaneDecompressor&) = delete;

  // False unless `frame` is one zstd frame of exactly plane.size() bytes.
  [[nodiscard]] bool decompress(std::span<const std::byte> frame, std::span<std::byte> plane);

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

}  // namespace kvtool::format
