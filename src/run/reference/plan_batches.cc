#include "plan_batches.h"

#include <algorithm>
#include <map>
#include <tuple>

#include "kvtool/base/error.h"
#include "kvtool/run/paths.h"

namespace kvtool::run {
namespace {

PlannedBatch single_row(std::span<const ReferenceEntry> entries, std::size_t index) {
  const ReferenceEntry& entry = entries[index];
  return {.rows = {{index, false}},
          .padded_length = entry.prompt_length,
          .cache_capacity = entry.prompt_length + entry.num_steps,
          .missing = {}};
}

// Inputs of one call to the engine; it divides them into passes itself, so this
// only bounds the results in flight, and the final states of final_only recordings.
constexpr std::size_t kParallelRows = 64;

// A batch runs with one cache and computes as many statistics for all rows.
using SharedByBatch = std::tuple<std::string, std::uint32_t, std::uint32_t>;
SharedByBatch shared_by_batch(const ReferenceEntry& entry) {
  return {entry.kv_cache, entry.top_k, entry.logits_sample};
}

std::vector<PlannedBatch> parallel_batches(std::span<const ReferenceEntry> entries) {
  std::vector<PlannedBatch> batches;
  std::map<SharedByBatch, std::size_t> open_batches;  // the last one of each
  for (std::size_t i = 0; i < entries.size(); ++i) {
    if (!entries[i].selected) continue;
    const auto [open, is_first] =
        open_batches.try_emplace(shared_by_batch(entries[i]), batches.size());
    if (is_first || batches[open->second].rows.size() == kParallelRows) {
      open->second = batches.size();
      batches.emplace_back();
    }
    const PlannedBatch alone = single_row(entries, i);
    PlannedBatch& batch = batches[open->second];
    batch.rows.push_back(alone.rows.front());
    batch.padded_length = std::max(batch.padded_length, alone.padded_length);
    batch.cache_capacity = std::max(batch.cache_capacity, alone.cache_capacity);
  }
  return batches;
}

void check_same_shape(const ReferenceEntry& a, const ReferenceEntry& b) {
  const auto require = [&](const char* what, const std::string& of_a, const std::string& of_b) {
    if (of_a == of_b) return;
    throw_corrupt(b.path.string() + " and " + a.path.string() +
                  " belong to one batch but disagree about its " + what + ": " + of_b +
                  " against " + of_a);
  };
  const auto require_number = [&](const char* what, std::uint64_t format::RunMeta::* member) {
    require(what, std::to_string(*a.run.*member), std::to_string(*b.run.*member));
  };
  require_number("rows", &format::RunMeta::rows);
  require_number("padded length", &format::RunMeta::padded_length);
  require_number("cache capacity", &format::RunMeta::cache_capacity);
  require_number("batch size", &format::RunMeta::batch_size);
  require("cache", a.kv_cache, b.kv_cache);
}

void check_capacity(const ReferenceEntry& entry) {
  if (entry.num_steps > entry.run->cache_capacity - entry.run->padded_length) {
    throw_corrupt(entry.path.string() + ": " + std::to_string(entry.num_steps) +
                  " steps do not fit behind " + std::to_string(entry.run->padded_length) +
                  " positions in META.run's cache of " + std::to_string(entry.run->cache_capacity));
  }
}

// The name that the recording of `row` would have, from one that is there.
std::string missing_name(const ReferenceEntry& present, std::uint64_t row) {
  const std::uint64_t first = present.run->input_index - present.run->row;
  return recording_file_name(present.run->batch_size, first + row);
}

PlannedBatch recorded_batch(std::span<const ReferenceEntry> entries,
                            const std::vector<std::size_t>& members) {
  const ReferenceEntry& first = entries[members.front()];
  std::vector<const std::size_t*> at_row(first.run->rows, nullptr);
  for (const std::size_t& member : members) {
    const ReferenceEntry& entry = entries[member];
    check_same_shape(first, entry);
    check_capacity(entry);
    const std::size_t*& place = at_row[entry.run->row];
    if (place != nullptr) {
      throw_corrupt(entry.path.string() + " and " + entries[*place].path.string() +
                    " both say that they are row " + std::to_string(entry.run->row) +
                    " of one batch");
    }
    place = &member;
  }
  PlannedBatch batch;
  batch.padded_length = first.run->padded_length;
  batch.cache_capacity = first.run->cache_capacity;
  for (std::size_t row = 0; row < at_row.size(); ++row) {
    if (at_row[row] != nullptr) {
      batch.rows.push_back({*at_row[row], false});
    } else {
      batch.rows.push_back({members.front(), true});
      batch.missing.push_back(missing_name(first, row));
    }
  }
  return batch;
}

std::uint64_t first_input(std::span<const ReferenceEntry> entries, const PlannedBatch& batch) {
  std::uint64_t first = UINT64_MAX;
  for (const PlannedRow& row : batch.rows) {
    first = std::min(first, entries[row.entry].input_index);
  }
  return first;
}

}  // namespace

std::vector<PlannedBatch> plan_batches(std::span<const ReferenceEntry> entries, ReplayShape shape) {
  if (shape == ReplayShape::kParallel) return parallel_batches(entries);
  std::vector<PlannedBatch> batches;
  std::map<std::string, std::vector<std::size_t>> by_batch;
  for (std::size_t i = 0; i < entries.size(); ++i) {
    if (shape == ReplayShape::kRecorded && entries[i].run) {
      by_batch[entries[i].run->batch_id].push_back(i);
    } else if (entries[i].selected) {
      batches.push_back(single_row(entries, i));
    }
  }
  for (const auto& [id, members] : by_batch) {
    const bool wanted = std::any_of(members.begin(), members.end(),
                                    [&](std::size_t i) { return entries[i].selected; });
    if (wanted) batches.push_back(recorded_batch(entries, members));
  }
  std::stable_sort(batches.begin(), batches.end(), [&](const auto& a, const auto& b) {
    return first_input(entries, a) < first_input(entries, b);
  });
  return batches;
}

}  // namespace kvtool::run
