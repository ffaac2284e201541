#include "kvtool/format/logit_sample.h"

namespace kvtool::format {
namespace {

// Part of the format, as the rule below is.
constexpr std::uint64_t kSeed = 0x73616D706C652031;
constexpr std::uint64_t kIdsPerToken = 65536;
static_assert(kMaxLogitsSample <= kIdsPerToken);

// The n-th output of splitmix64.
std::uint64_t random_number(std::uint64_t n) {
  std::uint64_t z = kSeed + (n + 1) * 0x9E3779B97F4A7C15U;
  z = (z ^ (z >> 30U)) * 0xBF58476D1CE4E5B9U;
  z = (z ^ (z >> 27U)) * 0x94D049BB133111EBU;
  return z ^ (z >> 31U);
}

}  // namespace

std::vector<std::int32_t> sampled_ids(std::uint32_t vocab_size, std::uint32_t size,
                                      std::uint64_t token) {
  std::vector<std::int32_t> ids;
  ids.reserve(size);
  for (std::uint64_t i = 0; i < size; ++i) {
    const std::uint64_t first = i * vocab_size / size;
    const std::uint64_t end = (i + 1) * vocab_size / size;
    const std::uint64_t chosen = random_number(token * kIdsPerToken + i) % (end - first);
    ids.push_back(static_cast<std::int32_t>(first + chosen));
  }
  return ids;
}

}  // namespace kvtool::format
