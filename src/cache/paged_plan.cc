// What the policy "paged" takes.
#include <algorithm>
#include <string>
#include <tuple>

#include "kvtool/base/error.h"
#include "kvtool/cache/kivi_settings.h"
#include "kvtool/cache/paged_settings.h"
#include "stored_bytes.h"

namespace kvtool::cache {
namespace {

std::uint64_t largest_page_bytes(const format::Geometry& geometry, const PagedSettings& settings) {
  std::uint64_t most = 0;
  for (std::uint64_t layer = 0; layer < geometry.layers().size(); ++layer) {
    most = std::max(most, stored_bytes(geometry, layer, settings.store).of_page(settings.page));
  }
  return most;
}

PredictionSettings prediction_settings(const CacheSpec& spec) {
  const auto rank = std::ranges::find(kPageRankWords, spec.word("rank"));
  return {static_cast<PageRank>(rank - kPageRankWords.begin()), spec.number("prefetch"),
          spec.share("precision").fraction()};
}

}  // namespace

PagedSettings paged_settings(const CacheSpec& spec) {
  PagedSettings settings;
  settings.page = spec.number("page");
  settings.device = spec.room("device");
  settings.residency = spec.word("residency");
  if (spec.has("rank")) settings.prediction = prediction_settings(spec);
  settings.link_gigabytes = spec.scale("link");
  settings.check = spec.word("check") == "1";
  constexpr std::uint64_t kLargestPage = std::uint64_t{1} << 31;
  if (settings.page == 0 || settings.page > kLargestPage) {
    throw_usage("cache '" + spec.to_string() + "': 'page' is from 1 to " +
                std::to_string(kLargestPage));
  }
  settings.store = store_of(spec);
  if (settings.store.policy() == "kivi") {
    const std::uint64_t group = kivi_settings(settings.store).group;
    if (settings.page % group != 0) {
      throw_usage("cache '" + spec.to_string() + "': with codec=" + spec.word("codec") +
                  " 'page' is a multiple of " + std::to_string(group) +
                  ", the positions that share a scale");
    }
  }
  return settings;
}

std::uint64_t PagedSettings::pages(std::uint64_t positions) const {
  if (store.policy() == "kivi") positions = kivi_settings(store).settled(positions);
  return (positions + page - 1) / page;
}

void check_paged(const CacheSpec& spec) { std::ignore = paged_settings(spec); }

std::uint64_t PagedSettings::frames(const format::Geometry& geometry,
                                    const BatchExtent& batch) const {
  const std::uint64_t rows = std::max<std::uint64_t>(1, batch.rows);
  const std::uint64_t all = pages(batch.positions);
  const std::uint64_t page_bytes = largest_page_bytes(geometry, *this);
  std::uint64_t frames = 0;
  switch (device.unit) {
    case Room::Unit::kPages: frames = device.number / rows; break;
    case Room::Unit::kShare: frames = device.share.of(all); break;
    case Room::Unit::kBytes: frames = device.number / page_bytes / rows; break;
  }
  const std::uint64_t least = std::min<std::uint64_t>(2, all);
  if (frames >= least) return std::min(frames, all);
  throw_usage("the cache paged has room for " + std::to_string(frames) + " pages of each of " +
              std::to_string(rows) + " inputs on the device, it needs " + std::to_string(least) +
              ", one to write and one to read: give 'device' at least " +
              std::to_string(least * rows) + " pages, that is " +
              std::to_string(least * rows * page_bytes) + " bytes of a layer");
}

CachePlan plan_paged(const format::Geometry& geometry, const BatchExtent& batch,
                     const CacheSpec& spec) {
  const PagedSettings settings = paged_settings(spec);
  const std::uint64_t all = settings.pages(batch.positions);
  const std::uint64_t frames = settings.frames(geometry, batch);
  const std::uint64_t summaries = page_summary_bytes(geometry, batch, spec);
  const std::uint64_t slots = frames * settings.page;
  if (frames == all) {
    CachePlan plan = plan_store(geometry, batch, settings.store);
    plan.kept_bytes += summaries;
    return plan;
  }
  const StoredBytes bytes = stored_bytes(geometry, settings.store);
  const auto of_batch = [&](std::uint64_t positions, std::uint64_t each) {
    return bytes_of_batch(batch, positions, each);
  };
  CachePlan plan;
  plan.logical_bytes = of_batch(batch.positions, geometry.position_bytes());
  const std::uint64_t kept = slots + all * settings.page;
  plan.kept_bytes = of_batch(kept, bytes.position) +
                    of_batch(kept / bytes.group_positions, bytes.group) + of_batch(1, bytes.row) +
                    summaries;
  plan.work_bytes =
      plan_store(geometry, {.rows = batch.rows, .positions = slots}, settings.store).work_bytes;
  if (settings.store.policy() != "kivi") return plan;
  const std::uint64_t ring = kivi_settings(settings.store).ring_positions();
  plan.kept_bytes += of_batch(std::min(batch.positions, ring), geometry.position_bytes());
  plan.prompt_bytes = of_batch(batch.prompt, geometry.position_bytes());
  return plan;
}

}  // namespace kvtool::cache
