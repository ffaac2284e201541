#include "engine/logit_stats.h"

#include <bit>
#include <cmath>

#include "kvtool/base/error.h"

namespace kvtool::engine {
namespace {

constexpr std::int64_t kIdMask = 0xffffffff;

// Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014.
std::uint64_t splitmix64(std::uint64_t index) {
  std::uint64_t z = (index + 1) * 0x9e3779b97f4a7c15ULL;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
  return z ^ (z >> 31);
}

// An involution between float bits and int32 that keeps the order of floats.
std::int32_t flip_negative(std::int32_t bits) { return bits ^ ((bits >> 31) & 0x7fffffff); }

}  // namespace

LogitStats::LogitStats(std::int64_t vocab_size, std::int64_t top_k, at::Device device)
    : top_k_(top_k) {
  if (top_k < 1 || top_k > vocab_size) throw_usage("top-k must be 1 to the vocabulary's size");
  inverted_ids_ = at::arange(kIdMask, kIdMask - vocab_size, -1, at::kLong).to(device);
  at::Tensor weights = at::empty({vocab_size}, at::kLong);
  for (std::int64_t id = 0; id < vocab_size; ++id) {
    weights.data_ptr<std::int64_t>()[id] =
        static_cast<std::int64_t>(splitmix64(static_cast<std::uint64_t>(id)) | 1U);
  }
  weights_ = weights.to(device);
}

at::Tensor LogitStats::ordered_keys(const at::Tensor& logits) const {
  // Adding +0 turns -0 into +0, which is equal and must rank equal.
  const at::Tensor bits = logits.to(at::kFloat).add(0.0).view(at::kInt);
  const at::Tensor ordered = bits.bitwise_xor(bits.__rshift__(31).bitwise_and(0x7fffffff));
  return ordered.to(at::kLong).__lshift__(32).bitwise_or(inverted_ids_);
}

at::Tensor LogitStats::digest(const at::Tensor& logits) const {
  const bool is_wide = logits.element_size() == 4;
  const at::Tensor bits = logits.contiguous()
                              .view(is_wide ? at::kInt : at::kShort)
                              .to(at::kLong)
                              .bitwise_and(is_wide ? 0xffffffffLL : 0xffffLL);
  return bits.mul_(weights_).sum(-1, /*keepdim=*/true);
}

at::Tensor LogitStats::pack(const at::Tensor& logits) const {
  const at::Tensor keys = std::get<0>(ordered_keys(logits).topk(top_k_, -1, true, true));
  const at::Tensor wide = logits.to(at::kFloat);
  const at::Tensor maximum = wide.amax(-1, /*keepdim=*/true);
  const at::Tensor total = (wide - maximum).exp_().sum(-1, /*keepdim=*/true, at::kDouble);
  const at::Tensor logsumexp = total.log_().add_(maximum);
  return at::cat({keys, logsumexp.view(at::kLong), digest(logits)}, -1);
}

at::Tensor LogitStats::greedy_keys(const at::Tensor& logits) const {
  return ordered_keys(logits).amax(-1);
}

std::int32_t LogitStats::token_of(std::int64_t key) {
  return static_cast<std::int32_t>(kIdMask - (key & kIdMask));
}

float LogitStats::logit_of(std::int64_t key) {
  return std::bit_cast<float>(flip_negative(static_cast<std::int32_t>(key >> 32)));
}

std::int32_t LogitStats::choice(std::span<const std::int64_t> packed) const {
  const auto logsumexp = std::bit_cast<double>(packed[static_cast<std::size_t>(top_k_)]);
  return std::isfinite(logsumexp) ? token_of(packed[0]) : -1;
}

void LogitStats::unpack(std::span<const std::int64_t> packed, format::StepStats& stats) const {
  const auto count = static_cast<std::size_t>(top_k_);
  stats.top_ids.resize(count);
  stats.top_logits.resize(count);
  for (std::size_t rank = 0; rank < count; ++rank) {
    stats.top_ids[rank] = token_of(packed[rank]);
    stats.top_logits[rank] = logit_of(packed[rank]);
  }
  stats.logsumexp = std::bit_cast<double>(packed[count]);
  stats.logits_digest = static_cast<std::uint64_t>(packed[count + 1]);
  stats.token = choice(packed);
}

}  // namespace kvtool::engine
