#include "engine/logit_stats.h"

#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "engine/logit_scan.h"
#include "kvtool/base/error.h"
#include "kvtool/base/setting.h"

namespace kvtool::engine {
namespace {

// Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014.
std::uint64_t splitmix64(std::uint64_t index) {
  std::uint64_t z = (index + 1) * 0x9e3779b97f4a7c15ULL;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
  return z ^ (z >> 31);
}

// Rows of the calling thread's part of a batch.
constexpr std::int64_t kRowsPerTask = 1;

std::span<const float> elements(const at::Tensor& row) {
  return {row.const_data_ptr<float>(), static_cast<std::size_t>(row.numel())};
}

at::Tensor ids_of_row(const at::Tensor& ids, std::int64_t row) {
  if (!ids.defined() || ids.size(0) == 1) return ids;
  return ids.narrow(0, row, 1);
}

// Two float32 to an element of `packed`.
void gather(std::span<const float> logits, const at::Tensor& ids, std::int64_t* packed) {
  const std::span<const std::int64_t> places(ids.const_data_ptr<std::int64_t>(),
                                             static_cast<std::size_t>(ids.numel()));
  for (std::size_t i = 0; i < places.size(); i += 2) {
    const std::array<float, 2> pair{logits[static_cast<std::size_t>(places[i])],
                                    logits[static_cast<std::size_t>(places[i + 1])]};
    *packed++ = std::bit_cast<std::int64_t>(pair);
  }
}

// `count` of the float32 that a row's packed statistics hold from `first` on.
void read_gathered(std::span<const std::int64_t> gathered, std::int64_t first, std::int64_t count,
                   std::vector<float>& logits) {
  logits.resize(static_cast<std::size_t>(count));
  const auto bytes =
      std::as_bytes(gathered).subspan(static_cast<std::size_t>(first) * sizeof(float));
  std::copy_n(bytes.begin(), logits.size() * sizeof(float),
              std::as_writable_bytes(std::span(logits)).begin());
}

// Of a contiguous row, in its own dtype.
std::uint64_t row_digest(const at::Tensor& row, const at::Tensor& weights) {
  const auto size = static_cast<std::size_t>(row.numel());
  const std::span<const std::int64_t> factors(weights.const_data_ptr<std::int64_t>(), size);
  if (row.element_size() == 4) {
    return weighted_sum({static_cast<const std::uint32_t*>(row.const_data_ptr()), size}, factors);
  }
  return weighted_sum({static_cast<const std::uint16_t*>(row.const_data_ptr()), size}, factors);
}

}  // namespace

LogitStats::LogitStats(std::int64_t vocab_size, std::int64_t top_k, const GatheredLogits& gathered,
                       at::Device device)
    : top_k_(top_k), gathered_(gathered) {
  if (top_k < 1 || top_k > vocab_size)
    throw_usage(setting("top_k") + " must be 1 to the vocabulary's size");
  inverted_ids_ = at::arange(kKeyIdMask, kKeyIdMask - vocab_size, -1, at::kLong).to(device);
  at::Tensor weights = at::empty({vocab_size}, at::kLong);
  for (std::int64_t id = 0; id < vocab_size; ++id) {
    weights.data_ptr<std::int64_t>()[id] =
        static_cast<std::int64_t>(splitmix64(static_cast<std::uint64_t>(id)) | 1U);
  }
  weights_ = weights.to(device);
}

at::Tensor LogitStats::ordered_keys(const at::Tensor& logits) const {
  // As ordered_key().
  const at::Tensor wide = logits.to(at::kFloat).add(0.0);
  const at::Tensor bits =
      wide.masked_fill_(wide.isnan(), std::numeric_limits<double>::quiet_NaN()).view(at::kInt);
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

at::Tensor LogitStats::pack(const at::Tensor& logits, const at::Tensor& ids) const {
  if (!logits.is_cpu()) return pack_with_tensors(logits, ids);
  const at::Tensor rows = logits.contiguous();
  const at::Tensor packed = at::empty({rows.size(0), packed_width()}, at::kLong);
  at::parallel_for(0, rows.size(0), kRowsPerTask, [&](std::int64_t begin, std::int64_t end) {
    const c10::InferenceMode guard;
    for (std::int64_t row = begin; row < end; ++row) {
      pack_row(rows.select(0, row), ids_of_row(ids, row),
               packed.data_ptr<std::int64_t>() + row * packed_width());
    }
  });
  return packed;
}

void LogitStats::pack_row(const at::Tensor& logits, const at::Tensor& ids,
                          std::int64_t* packed) const {
  const at::Tensor wide = logits.to(at::kFloat);
  const LargestLogit largest = largest_logit(elements(wide));
  if (!largest.is_ordered) {
    const at::Tensor result = pack_with_tensors(logits.unsqueeze(0), ids).contiguous();
    std::copy_n(result.const_data_ptr<std::int64_t>(), packed_width(), packed);
    return;
  }
  thread_local std::vector<std::int64_t> keys;
  largest_keys(elements(wide), static_cast<std::size_t>(top_k_), keys);
  std::copy(keys.begin(), keys.end(), packed);
  const at::Tensor exponentials = (wide - largest.value).exp_();
  const double logsumexp =
      std::log(sum_in_double(elements(exponentials))) + static_cast<double>(largest.value);
  packed[top_k_] = std::bit_cast<std::int64_t>(logsumexp);
  packed[top_k_ + 1] = static_cast<std::int64_t>(row_digest(logits, weights_));
  if (ids.defined()) gather(elements(wide), ids, packed + gathered_at());
}

at::Tensor LogitStats::pack_with_tensors(const at::Tensor& logits, const at::Tensor& ids) const {
  const at::Tensor keys = std::get<0>(ordered_keys(logits).topk(top_k_, -1, true, true));
  const at::Tensor wide = logits.to(at::kFloat);
  const at::Tensor maximum = wide.amax(-1, /*keepdim=*/true);
  const at::Tensor total = (wide - maximum).exp_().sum(-1, /*keepdim=*/true, at::kDouble);
  const at::Tensor logsumexp = total.log_().add_(maximum);
  std::vector<at::Tensor> parts{keys, logsumexp.view(at::kLong), digest(logits)};
  if (ids.defined()) {
    const at::Tensor gathered = at::gather(logits, -1, ids.expand({logits.size(0), -1}));
    parts.push_back(gathered.to(at::kFloat).view(at::kLong));
  }
  return at::cat(parts, -1);
}

at::Tensor LogitStats::greedy_keys(const at::Tensor& logits) const {
  if (!logits.is_cpu()) return greedy_keys_with_tensors(logits);
  const at::Tensor rows = logits.contiguous();
  const at::Tensor keys = at::empty({rows.size(0)}, at::kLong);
  for (std::int64_t row = 0; row < rows.size(0); ++row) {
    const at::Tensor wide = rows.select(0, row).to(at::kFloat);
    const LargestLogit largest = largest_logit(elements(wide));
    keys.data_ptr<std::int64_t>()[row] =
        largest.is_ordered ? ordered_key(largest.value, first_equal(elements(wide), largest.value))
                           : greedy_keys_with_tensors(rows.narrow(0, row, 1)).item<std::int64_t>();
  }
  return keys;
}

at::Tensor LogitStats::greedy_keys_with_tensors(const at::Tensor& logits) const {
  return ordered_keys(logits).amax(-1);
}

std::int32_t LogitStats::token_of(std::int64_t key) { return id_of_key(key); }

float LogitStats::logit_of(std::int64_t key) { return logit_of_key(key); }

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
  const auto gathered = packed.subspan(static_cast<std::size_t>(gathered_at()));
  read_gathered(gathered, 0, gathered_.at_reference_top, stats.at_reference_top);
  read_gathered(gathered, gathered_.at_reference_top, gathered_.sample, stats.sampled_logits);
}

}  // namespace kvtool::engine
