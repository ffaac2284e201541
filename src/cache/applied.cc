#include "kvtool/cache/applied.h"

#include "kvtool/cache/cache_plan.h"
#include "kvtool/cache/key_budget.h"
#include "kvtool/cache/kivi_settings.h"

namespace kvtool::cache {
namespace {

// Whether some row must be kept otherwise than the model made it.
bool must_keep(const CacheSpec& spec, const RunLength& run) {
  if (run.layers == 0 || run.positions == 0) return false;
  const CacheSpec store = store_of(spec);
  if (store.policy() == "kivi") {
    return run.steps > 0 && kivi_settings(store).settled(run.positions) > 0;
  }
  return storage_of(spec).element_bits != 0;
}

std::optional<std::string> not_kept(const CacheSpec& spec, const RunLength& run,
                                    const CacheUse& use) {
  if (!must_keep(spec, run) || use.applied_rows > 0) return std::nullopt;
  return "no row was kept otherwise than the model made it";
}

std::optional<std::string> not_selected(const CacheSpec& spec, const RunLength& run,
                                        const CacheUse& use) {
  const KeyBudget budget(spec);
  if (run.layers == 0 || run.steps == 0 || !budget.selects(run.layers - 1)) return std::nullopt;
  if (use.visible_keys == 0) return "no step asked it for the keys to see";
  // However the layers' own windows reach: that query's context is larger than the budget.
  const std::uint64_t most = use.most_visible_keys;
  const bool must_hide = most > 0 && budget.seen({most - 1, 0}) < most;
  if (!must_hide || use.seen_keys < use.visible_keys) return std::nullopt;
  return "a step could see " + std::to_string(most) + " keys, and every step saw all of them";
}

}  // namespace

std::optional<std::string> not_applied(const CacheSpec& spec, const RunLength& run,
                                       const CacheUse& use) {
  const std::optional<std::string> reason = not_kept(spec, run, use);
  return reason ? reason : not_selected(spec, run, use);
}

}  // namespace kvtool::cache
