// What the policy "kivi" takes.
#include <algorithm>
#include <string>
#include <tuple>
#include <utility>

#include "kvtool/base/error.h"
#include "kvtool/cache/cache_plan.h"
#include "kvtool/cache/kivi_settings.h"
#include "stored_bytes.h"

namespace kvtool::cache {

KiviSettings kivi_settings(const CacheSpec& spec) {
  KiviSettings settings;
  const auto bits = [&](std::string_view option) -> std::uint32_t {
    const std::string& word = spec.word(option);
    return word == "none" ? 0 : word == "2" ? 2 : word == "4" ? 4 : 8;
  };
  settings.key_bits = bits("k");
  settings.value_bits = bits("v");
  settings.group = spec.number("group");
  settings.residual = spec.number("residual");
  settings.sinks = spec.number("sinks");
  settings.layers = LayerList::parse(spec.word("layers")).value_or(LayerList());
  if (settings.key_bits == 0 && settings.value_bits == 0) {
    throw_usage("cache '" + spec.to_string() +
                "': with k=none and v=none it keeps everything as the model made it: give one of "
                "them bits, or use contiguous");
  }
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

void KiviSettings::check_layers(std::uint64_t model_layers) const {
  if (layers.is_all() || layers.last() < model_layers) return;
  throw_usage("the cache kivi: 'layers' names layer " + std::to_string(layers.last()) +
              ", and the model's are 0 to " + std::to_string(model_layers - 1));
}

void check_kivi(const CacheSpec& spec) { std::ignore = kivi_settings(spec); }

std::uint64_t KiviSettings::settled(std::uint64_t positions) const {
  const std::uint64_t whole = std::max<std::uint64_t>(1, residual) + sinks;
  const std::uint64_t groups = positions < whole ? 0 : (positions - whole) / group;
  return groups == 0 ? 0 : sinks + groups * group;
}

std::uint64_t KiviSettings::settled_in_pass(std::uint64_t known, std::uint64_t positions) const {
  const std::uint64_t target = settled(positions);
  if (target <= known) return target;
  return known < sinks + group ? 0 : known - (known - sinks) % group;
}

CachePlan plan_kivi(const format::Geometry& geometry, const BatchExtent& batch,
                    const CacheSpec& spec) {
  const KiviSettings settings = kivi_settings(spec);
  settings.check_layers(geometry.layers().size());
  const StoredBytes bytes = stored_bytes(geometry, spec);
  const WorkBytes work = work_bytes(geometry);
  const std::uint64_t settled = settings.settled(batch.positions);
  const std::uint64_t coded = settled == 0 ? 0 : settled - settings.sinks;
  const std::uint64_t whole = std::min(batch.positions, settings.ring_positions()) + settings.sinks;
  const auto of_batch = [&](std::uint64_t positions, std::uint64_t each) {
    return bytes_of_batch(batch, positions, each);
  };
  CachePlan plan;
  plan.logical_bytes = of_batch(batch.positions, geometry.position_bytes());
  plan.kept_bytes = of_batch(whole, geometry.position_bytes()) + of_batch(coded, bytes.position) +
                    of_batch(coded / settings.group, bytes.group);
  plan.prompt_bytes = of_batch(batch.prompt, geometry.position_bytes());
  plan.work_bytes = of_batch(batch.positions, work.key + work.value);
  return plan;
}

}  // namespace kvtool::cache
