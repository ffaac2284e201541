#include "lab_ghost.h"

#include <fmt/format.h>

#include <algorithm>

namespace kvtool::run {
namespace {

constexpr std::string_view kDevice = "device=";

std::uint64_t seen_keys(const Judgement& judged, format::ReplayMode mode) {
  std::uint64_t keys = 0;
  for (const TrialBatch& batch : judged.batches) {
    for (const ModeRun& run : batch.runs) {
      if (run.mode == mode) keys += run.cache_use.seen_keys;
    }
  }
  return keys;
}

std::uint64_t differing(const std::vector<std::int32_t>& ours,
                        const std::vector<std::int32_t>& theirs) {
  const std::size_t both = std::min(ours.size(), theirs.size());
  std::uint64_t count = std::max(ours.size(), theirs.size()) - both;
  for (std::size_t i = 0; i < both; ++i) count += ours[i] == theirs[i] ? 0 : 1;
  return count;
}

const std::vector<std::int32_t>& tokens_of(const Judgement& judged, format::ReplayMode mode) {
  static const std::vector<std::int32_t> kNone;
  const auto found = judged.tokens.find(mode);
  return found == judged.tokens.end() ? kNone : found->second;
}

}  // namespace

LabPaging lab_paging(std::span<const TrialBatch> batches, format::ReplayMode mode) {
  LabPaging paging;
  for (const TrialBatch& batch : batches) {
    for (const ModeRun& run : batch.runs) {
      if (run.mode != mode) continue;
      paging.pages += run.cache_use.pages;
      paging.decode_seconds += run.decode_seconds;
    }
  }
  return paging;
}

bool needs_ghost(const LabRow& row) {
  return row.paging.pages.demands > 0 && row.applied.paged_out > 0;
}

cache::CacheSpec all_resident(const cache::CacheSpec& spec) {
  std::string text = spec.to_string();
  const std::size_t value = text.find(kDevice) + kDevice.size();
  text.replace(value, text.find_first_of(',', value) - value, "100%");
  return cache::CacheSpec::parse(text);
}

LabGhost lab_ghost(const Judgement& row, const Judgement& ghost, format::ReplayMode mode,
                   const LabTime& time) {
  LabGhost result;
  result.spec = ghost.batches.front().kv_cache.to_string();
  const std::uint64_t paged = seen_keys(row, mode);
  const std::uint64_t resident = seen_keys(ghost, mode);
  if (paged != resident) {
    result.missing = fmt::format("all resident, steps saw {} keys instead of {}", resident, paged);
    return result;
  }
  result.step_ms = time.step_ms;
  result.decode_seconds = lab_paging(ghost.batches, mode).decode_seconds;
  result.other_tokens = differing(tokens_of(row, mode), tokens_of(ghost, mode));
  return result;
}

}  // namespace kvtool::run
