#include "kvtool/cache/applied.h"

#include "kvtool/cache/cache_plan.h"
#include "kvtool/cache/key_budget.h"
#include "kvtool/cache/kivi_settings.h"
#include "kvtool/cache/paged_settings.h"

namespace kvtool::cache {
namespace {

// Whether some row must be kept otherwise than the model made it.
bool must_keep(const CacheSpec& spec, const RunLength& run) {
  if (run.geometry.num_layers() == 0 || run.positions == 0) return false;
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

bool selects_somewhere(const KeyBudget& budget, const RunLength& run) {
  const std::size_t layers = run.geometry.num_layers();
  return layers > 0 && budget.selects(layers - 1);
}

std::optional<std::string> not_selected(const CacheSpec& spec, const RunLength& run,
                                        const CacheUse& use) {
  const KeyBudget budget(spec);
  if (run.steps == 0 || !selects_somewhere(budget, run)) return std::nullopt;
  if (use.visible_keys == 0) return "no step asked it for the keys to see";
  // However the layers' own windows reach: that query's context is larger than the budget.
  const std::uint64_t most = use.most_visible_keys;
  const bool must_hide = most > 0 && budget.seen({most - 1, 0}) < most;
  if (!must_hide || use.seen_keys < use.visible_keys) return std::nullopt;
  return "a step could see " + std::to_string(most) + " keys, and every step saw all of them";
}

// Of steps that see all that their layer shows: one that needs more pages of an input than have
// room fetches some, for which others lose their frame; the next one needs those again.
std::optional<std::string> not_read_back(const PagedSettings& settings, std::uint64_t frames,
                                         const RunLength& run, const CacheUse& use) {
  const std::uint64_t keys = use.most_visible_keys;
  const bool in_groups = settings.store.policy() == "kivi";
  // The window of a layer may begin behind what is in groups.
  if (keys == 0 && in_groups) return std::nullopt;
  if (keys == 0) return "no step attended to its pages";
  const std::uint64_t needed = (keys + settings.page - 1) / settings.page;
  // From step to step there is one more key in pages, or a group of them.
  const std::uint64_t growth = in_groups ? kivi_settings(settings.store).group : 1;
  const bool needed_before = run.steps > 1 && keys > frames * settings.page + growth;
  const std::string pages = "a step needed " + std::to_string(needed) + " pages of an input, " +
                            std::to_string(frames) + " have room, and none ";
  if (needed > frames && use.paged_out == 0) return pages + "left the device";
  if (needed_before && use.read_back == 0) return pages + "came back";
  return std::nullopt;
}

std::optional<std::string> not_paged(const CacheSpec& spec, const RunLength& run,
                                     const CacheUse& use) {
  if (spec.policy() != "paged" || run.in_parallel || run.steps == 0) return std::nullopt;
  const PagedSettings settings = paged_settings(spec);
  const std::uint64_t all = settings.pages(run.capacity);
  const std::uint64_t frames =
      settings.frames(run.geometry, {.rows = run.rows, .positions = run.capacity});
  if (frames == all) {
    if (use.moved_bytes == 0 && use.paged_out == 0) return std::nullopt;
    return "all " + std::to_string(all) + " pages of an input had room, and pages were moved";
  }
  if (settings.pages(run.positions) <= frames || selects_somewhere(KeyBudget(spec), run)) {
    return std::nullopt;
  }
  return not_read_back(settings, frames, run, use);
}

}  // namespace

std::optional<std::string> not_applied(const CacheSpec& spec, const RunLength& run,
                                       const CacheUse& use) {
  for (const auto& check : {not_kept, not_selected, not_paged}) {
    if (std::optional<std::string> reason = check(spec, run, use)) return reason;
  }
  return std::nullopt;
}

}  // namespace kvtool::cache
