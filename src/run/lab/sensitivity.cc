#include "sensitivity.h"

#include <fmt/format.h>

#include <algorithm>

#include "lab_row.h"

namespace kvtool::run {
namespace {

constexpr std::string_view kGrouped = "kivi";
constexpr std::uint32_t kBits[] = {8, 4, 2};

std::string settings_of(const cache::CacheSpec& base) {
  return fmt::format("group={},residual={},sinks={}", base.number("group"), base.number("residual"),
                     base.number("sinks"));
}

LabQuality quality_under(const TrialRunner& runner, const std::optional<cache::CacheSpec>& spec,
                         format::ReplayMode mode, const engine::Progress& progress) {
  const Judgement judged = runner.run(
      {.kv_cache = spec, .modes = {mode}, .parallel = true, .refuse_idle = false}, progress);
  return lab_quality(judged.figures, mode);
}

}  // namespace

cache::CacheSpec sensitivity_base(const std::vector<cache::CacheSpec>& policies) {
  const auto given = std::ranges::find(policies, kGrouped, &cache::CacheSpec::policy);
  return given != policies.end() ? *given : cache::CacheSpec::parse("kivi:group=32,residual=32");
}

std::vector<PlannedPart> plan_parts(const cache::CacheSpec& base, std::uint64_t layers) {
  std::vector<PlannedPart> parts;
  for (const std::uint32_t bits : kBits) {
    const auto add = [&](std::string name, std::optional<std::uint64_t> layer,
                         const std::string& options) {
      parts.push_back({std::move(name), layer, bits,
                       cache::CacheSpec::parse("kivi:" + options + "," + settings_of(base))});
    };
    add("K and V", std::nullopt, fmt::format("k={0},v={0}", bits));
    add("K", std::nullopt, fmt::format("k={},v=none", bits));
    add("V", std::nullopt, fmt::format("k=none,v={}", bits));
    for (std::uint64_t layer = 0; layer < layers; ++layer) {
      add(fmt::format("layer {}", layer), layer,
          fmt::format("k={0},v={0},layers={1}", bits, layer));
    }
  }
  return parts;
}

LabSensitivity measure_sensitivity(
    const TrialRunner& runner, const cache::CacheSpec& base, std::uint64_t layers,
    format::ReplayMode mode,
    const std::function<engine::Progress(const std::string& words)>& progress) {
  LabSensitivity result;
  result.mode = format::replay_mode_name(mode);
  result.base = settings_of(base);
  const std::vector<PlannedPart> parts = plan_parts(base, layers);
  result.full =
      quality_under(runner, std::nullopt, mode,
                    progress(fmt::format("sensitivity: full, then {} parts", parts.size())));
  for (const PlannedPart& part : parts) {
    const std::string words =
        fmt::format("sensitivity {}/{}: {} in {} bits", result.parts.size() + 1, parts.size(),
                    part.name, part.bits);
    result.parts.push_back({part.name, part.layer, part.bits, part.spec.to_string(),
                            quality_under(runner, part.spec, mode, progress(words))});
  }
  return result;
}

}  // namespace kvtool::run
