#include "format/packed/plane_codec.h"

#include <gtest/gtest.h>

#include <random>

#include "sample.h"

namespace kvtool::format {
namespace {

Bytes random_bytes(std::size_t count, unsigned values, unsigned seed) {
  std::mt19937 random(seed);
  Bytes bytes(count);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random() % values);
  return bytes;
}

TEST(PlaneCodec, PutsTheMostSignificantBytesFirst) {
  Bytes planes(8);
  split_planes(bytes_of({1, 2, 3, 4, 5, 6, 7, 8}), 2, planes);
  EXPECT_EQ(planes, bytes_of({2, 4, 6, 8, 1, 3, 5, 7}));
  split_planes(bytes_of({1, 2, 3, 4, 5, 6, 7, 8}), 4, planes);
  EXPECT_EQ(planes, bytes_of({4, 8, 3, 7, 2, 6, 1, 5}));
}

// Vectorized loops have a tail for every count.
TEST(PlaneCodec, MergingUndoesSplittingForEveryCount) {
  for (const std::size_t width : {1u, 2u, 4u}) {
    for (std::size_t count = 0; count < 300; ++count) {
      const Bytes elements = random_bytes(count * width, 256, 7);
      Bytes planes(elements.size());
      Bytes merged(elements.size());
      split_planes(elements, width, planes);
      merge_planes(planes, width, merged);
      ASSERT_EQ(merged, elements) << width << " " << count;
    }
  }
}

TEST(PlaneCodec, CompressesWhatPaysAndLeavesTheRest) {
  PlaneCompressor compressor;
  PlaneDecompressor decompressor;
  const Bytes exponents = random_bytes(20000, 8, 1);
  Bytes out(exponents.size());
  const std::size_t stored = compressor.compress(exponents, out);
  EXPECT_LT(stored, exponents.size() / 2);
  Bytes back(exponents.size());
  EXPECT_TRUE(decompressor.decompress(std::span(out).subspan(0, stored), back));
  EXPECT_EQ(back, exponents);

  const Bytes noise = random_bytes(20000, 256, 2);
  Bytes plain(noise.size());
  EXPECT_EQ(compressor.compress(noise, plain), noise.size());
  EXPECT_EQ(plain, noise);
}

TEST(PlaneCodec, RefusesFramesOfAnotherLength) {
  PlaneCompressor compressor;
  PlaneDecompressor decompressor;
  Bytes frame(1000);
  frame.resize(compressor.compress(Bytes(1000, std::byte{3}), frame));
  Bytes shorter(999);
  Bytes longer(1001);
  Bytes right(1000);
  EXPECT_FALSE(decompressor.decompress(frame, shorter));
  EXPECT_FALSE(decompressor.decompress(frame, longer));
  Bytes twice = frame;
  twice.insert(twice.end(), frame.begin(), frame.end());
  Bytes double_length(2000);
  EXPECT_FALSE(decompressor.decompress(twice, double_length));
  EXPECT_FALSE(decompressor.decompress({}, right));
  EXPECT_TRUE(decompressor.decompress(frame, right));
}

}  // namespace
}  // namespace kvtool::format
