#include <algorithm>
#include <limits>

#include "kvtool/analysis/statistics.h"
#include "kvtool/base/dtype.h"
#include "kvtool/run/cache_bench.h"

namespace kvtool::run {
namespace {

double ratio_of_medians(const std::vector<double>& slow, const std::vector<double>& fast) {
  return quantile_of(slow, 0.5) / quantile_of(fast, 0.5);
}

bool all_alike(const format::Geometry& geometry) {
  const auto& layers = geometry.layers();
  return std::all_of(layers.begin(), layers.end(),
                     [&](const format::LayerGeometry& layer) { return layer == layers.front(); });
}

}  // namespace

double quantile_of(std::vector<double> values, double q) {
  return analysis::quantile(values, q).value_or(std::numeric_limits<double>::quiet_NaN());
}

double CacheBenchLength::following_speedup() const {
  return ratio_of_medians(without_cache.following_ms, with_cache.following_ms);
}

double CacheBenchLength::total_speedup() const {
  return ratio_of_medians(without_cache.total_ms, with_cache.total_ms);
}

double CacheBenchLength::work_ratio() const {
  return static_cast<double>(without_cache.tokens_passed) /
         static_cast<double>(with_cache.tokens_passed);
}

double CacheBenchLength::whole_ratio() const {
  return (static_cast<double>(positions) + 1.0) / 2.0;
}

bool CacheBenchResult::fails(const CacheBenchLength& length) const {
  if (!length.as_planned()) return true;
  if (!length.difference || length.lossy()) return false;
  return float32 || length.difference->verdict == "hard_flip";
}

bool CacheBenchResult::passed() const {
  return std::none_of(lengths.begin(), lengths.end(),
                      [this](const CacheBenchLength& length) { return fails(length); });
}

std::uint64_t tokens_with_cache(std::uint64_t context, std::uint64_t new_tokens) {
  return context + new_tokens - 1;
}

std::uint64_t tokens_without_cache(std::uint64_t context, std::uint64_t new_tokens) {
  return context * new_tokens + new_tokens * (new_tokens - 1) / 2;
}

std::string position_formula(const format::Geometry& geometry) {
  const format::LayerGeometry& layer = geometry.layer(0);
  if (!all_alike(geometry) || layer.key_dim != layer.value_dim ||
      layer.key_dtype != layer.value_dtype) {
    return "the sum over " + std::to_string(geometry.num_layers()) +
           " layers of heads x (key dim x size + value dim x size)";
  }
  return std::to_string(geometry.num_layers()) + " layers x " + std::to_string(layer.num_kv_heads) +
         " K/V heads x " + std::to_string(layer.key_dim) + " numbers x 2 (K, V) x " +
         std::to_string(element_size(layer.key_dtype)) + " bytes";
}

std::vector<std::int32_t> ruled_ids(std::uint64_t length, std::uint32_t vocab_size) {
  // As special tokens stand at either end of a vocabulary, ids are of its middle.
  constexpr std::uint64_t kStride = 7919;
  const std::uint64_t first = vocab_size / 4;
  const std::uint64_t span = std::max<std::uint64_t>(1, vocab_size / 2);
  std::vector<std::int32_t> ids;
  for (std::uint64_t i = 1; i <= length; ++i) {
    ids.push_back(static_cast<std::int32_t>(first + i * kStride % span));
  }
  return ids;
}

}  // namespace kvtool::run
