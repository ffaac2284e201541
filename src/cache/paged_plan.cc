// What the policy "paged" takes.
#include <algorithm>
#include <string>
#include <tuple>

#include "kvtool/base/checked.h"
#include "kvtool/base/error.h"
#include "kvtool/cache/paged_settings.h"

namespace kvtool::cache {
namespace {

// Of one position, of the layer that takes most.
std::uint64_t largest_layer_bytes(const format::Geometry& geometry) {
  std::uint64_t most = 0;
  for (const format::LayerGeometry& layer : geometry.layers()) {
    const std::uint64_t heads = layer.num_kv_heads;
    most = std::max(most, heads * (layer.key_dim * element_size(layer.key_dtype) +
                                   layer.value_dim * element_size(layer.value_dtype)));
  }
  return most;
}

PredictionSettings prediction_settings(const CacheSpec& spec) {
  const auto rank = std::ranges::find(kPageRankWords, spec.word("rank"));
  return {static_cast<PageRank>(rank - kPageRankWords.begin()), spec.number("prefetch"),
          static_cast<double>(spec.number("precision")) / double{kWholeShare}};
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
  constexpr std::uint64_t kMostPositions = std::uint64_t{1} << 31;
  if (settings.page == 0 || settings.page > kMostPositions) {
    throw_usage("cache '" + spec.to_string() + "': 'page' is from 1 to " +
                std::to_string(kMostPositions));
  }
  return settings;
}

void check_paged(const CacheSpec& spec) { std::ignore = paged_settings(spec); }

std::uint64_t PagedSettings::frames(const format::Geometry& geometry,
                                    const BatchExtent& batch) const {
  const std::uint64_t rows = std::max<std::uint64_t>(1, batch.rows);
  const std::uint64_t all = pages(batch.positions);
  const std::uint64_t page_bytes = page * largest_layer_bytes(geometry);
  std::uint64_t frames = 0;
  switch (device.unit) {
    case Room::Unit::kPages: frames = device.number / rows; break;
    case Room::Unit::kShare: frames = (all * device.number + kWholeShare - 1) / kWholeShare; break;
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
  CachePlan plan;
  plan.logical_bytes = bytes_of_batch(batch, batch.positions, geometry.position_bytes());
  plan.kept_bytes = plan.logical_bytes;
  if (frames == all) return plan;
  plan.kept_bytes =
      bytes_of_batch(batch, (frames + all) * settings.page, geometry.position_bytes());
  return plan;
}

}  // namespace kvtool::cache
