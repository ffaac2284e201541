// What the policy "kivi" takes.
#include <algorithm>
#include <string>
#include <tuple>
#include <utility>

#include "kvtool/base/error.h"
#include "kvtool/cache/cache_plan.h"
#include "kvtool/cache/kivi_settings.h"

namespace kvtool::cache {
namespace {

// A scale as bfloat16 and a zero point.
constexpr std::uint64_t kScaleBytes = 3;

struct PositionBytes {
  std::uint64_t whole = 0;         // K and V as the model makes them
  std::uint64_t coded = 0;         // K and V as they are packed, and the scales of V
  std::uint64_t group_scales = 0;  // of K, once a group of positions
  std::uint64_t work_key = 0;      // of the largest layer
  std::uint64_t work_value = 0;
};

PositionBytes bytes_of_position(const format::Geometry& geometry, const KiviSettings& settings) {
  PositionBytes bytes;
  for (const format::LayerGeometry& layer : geometry.layers()) {
    const std::uint64_t heads = layer.num_kv_heads;
    const std::uint64_t key = heads * layer.key_dim * element_size(layer.key_dtype);
    const std::uint64_t value = heads * layer.value_dim * element_size(layer.value_dtype);
    bytes.whole += key + value;
    bytes.work_key = std::max(bytes.work_key, key);
    bytes.work_value = std::max(bytes.work_value, value);
    const auto packed = [](std::uint64_t dim, std::uint64_t bits) { return (dim * bits + 7) / 8; };
    const std::uint64_t value_groups = (layer.value_dim + settings.group - 1) / settings.group;
    bytes.coded +=
        heads * (packed(layer.key_dim, settings.key_bits) +
                 packed(layer.value_dim, settings.value_bits) + value_groups * kScaleBytes);
    bytes.group_scales += heads * layer.key_dim * kScaleBytes;
  }
  return bytes;
}

}  // namespace

KiviSettings kivi_settings(const CacheSpec& spec) {
  KiviSettings settings;
  const auto bits = [&](std::string_view option) -> std::uint32_t {
    const std::string& word = spec.word(option);
    return word == "2" ? 2 : word == "4" ? 4 : 8;
  };
  settings.key_bits = bits("k");
  settings.value_bits = bits("v");
  settings.group = spec.number("group");
  settings.residual = spec.number("residual");
  settings.sinks = spec.number("sinks");
  constexpr std::uint64_t kMost = std::uint64_t{1} << 31;
  for (const auto& [name, value] :
       {std::pair("group", settings.group), std::pair("residual", settings.residual),
        std::pair("sinks", settings.sinks)}) {
    if (value <= kMost) continue;
    throw_usage("cache '" + spec.to_string() + "': '" + name + "' is at most " +
                std::to_string(kMost));
  }
  if (settings.group == 0) {
    throw_usage("cache '" + spec.to_string() + "': 'group' is at least 1");
  }
  return settings;
}

void check_kivi(const CacheSpec& spec) { std::ignore = kivi_settings(spec); }

std::uint64_t KiviSettings::settled(std::uint64_t positions) const {
  const std::uint64_t whole = std::max<std::uint64_t>(1, residual) + sinks;
  const std::uint64_t groups = positions < whole ? 0 : (positions - whole) / group;
  return groups == 0 ? 0 : sinks + groups * group;
}

CachePlan plan_kivi(const format::Geometry& geometry, const BatchExtent& batch,
                    const CacheSpec& spec) {
  const KiviSettings settings = kivi_settings(spec);
  const PositionBytes bytes = bytes_of_position(geometry, settings);
  const std::uint64_t settled = settings.settled(batch.positions);
  const std::uint64_t coded = settled == 0 ? 0 : settled - settings.sinks;
  const std::uint64_t whole = std::min(batch.positions, settings.ring_positions());
  const auto of_batch = [&](std::uint64_t positions, std::uint64_t position_bytes) {
    return bytes_of_batch(batch, positions, position_bytes);
  };
  CachePlan plan;
  plan.logical_bytes = of_batch(batch.positions, geometry.position_bytes());
  plan.kept_bytes = of_batch(whole, bytes.whole) + of_batch(settings.sinks, bytes.whole) +
                    of_batch(coded, bytes.coded) +
                    of_batch(coded / settings.group, bytes.group_scales);
  plan.prompt_bytes = of_batch(batch.prompt, bytes.whole);
  plan.work_bytes = of_batch(batch.positions, bytes.work_key + bytes.work_value);
  return plan;
}

}  // namespace kvtool::cache
