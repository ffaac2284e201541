#include "replay_cache.h"

#include "kvtool/analysis/logit_noise.h"
#include "kvtool/analysis/model_config.h"
#include "kvtool/base/error.h"
#include "kvtool/base/setting.h"

namespace kvtool::run {

cache::CacheSpec replay_cache(const std::optional<cache::CacheSpec>& asked,
                              const ReferenceEntry& entry) {
  if (asked) return *asked;
  try {
    return cache::CacheSpec::parse(entry.kv_cache);
  } catch (const Error& error) {
    throw_incompatible(entry.path.string() + " was made with a cache that this kvtool lacks: " +
                       error.message() + "; choose one with " + setting("kv_cache"));
  }
}

analysis::GateContext replay_context(const engine::ModelInfo& model,
                                     const std::string& device_label,
                                     const std::optional<cache::CacheSpec>& asked,
                                     const ReferenceEntry& entry) {
  const analysis::HeldLogits held = analysis::held_logits(entry.recording->header());
  return {.model = model.model_id,
          .model_slug = model.slug,
          .dtype = model.dtype,
          .reference_device = entry.device_label,
          .device = device_label,
          .reference_cache = entry.kv_cache,
          .cache = replay_cache(asked, entry).to_string(),
          .measures_noise = analysis::show_noise(held, held),
          .routed_layers = analysis::routed_layers(entry.recording->meta())};
}

}  // namespace kvtool::run
