// Replays one planned batch, in one replay mode after the other, and compares
// every row with its reference. What replay and trials share.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kvtool/engine/api.h"
#include "kvtool/format/row.h"
#include "kvtool/run/observer.h"
#include "run/reference/plan_batches.h"

namespace kvtool::run {

struct BatchReplayOptions {
  std::vector<format::ReplayMode> modes = {format::ReplayMode::kInject};
  bool allow_different_weights = false;
  bool parallel = false;                               // see engine::ReplayOptions
  std::optional<std::uint64_t> parallel_memory_bytes;  // empty: the engine's default
  std::optional<engine::Fault> fault;
  std::optional<cache::CacheSpec> kv_cache;  // empty: the one that made the recordings
  // Of a gate, which may differ by the device that a recording comes from. Empty: the defaults.
  std::function<analysis::FlipBounds(const ReferenceEntry& entry)> flip_bounds;
  std::uint64_t block_positions = 64;  // of the K/V profile, the same in all batches of a run
  // A cache that did not act is an Error; else ModeRun::idle says why it is known.
  bool refuse_idle = true;
  bool measure_attention = false;  // see engine::ReplayOptions
};

// What one mode of a batch took.
struct ModeRun {
  format::ReplayMode mode = format::ReplayMode::kInject;
  cache::CacheUse cache_use = {};
  double prefill_seconds = 0.0;
  double decode_seconds = 0.0;
  std::uint64_t decode_steps = 0;  // of the batch
  std::string idle = {};           // empty: the cache acted, or had nothing to act on
  std::vector<engine::AttentionError> attention_errors = {};  // of each layer, where measured
};

// One row that somebody asked for; stand-ins and mates are not among the results.
struct ReplayedRow {
  const ReferenceEntry* entry = nullptr;
  std::size_t row = 0;   // in the batch
  std::size_t rows = 1;  // of the batch
  format::SaveMode save_mode = format::SaveMode::kDelta;
  std::string truncation;
  bool reference_has_prefill_kv = true;
  std::vector<ModeReplay> modes;  // texts and timing included
};

struct BatchReplayResult {
  std::vector<ReplayedRow> rows;
  cache::CacheSpec kv_cache;     // that ran
  cache::CacheUse cache_use;     // of the mode that took most
  double prefill_seconds = 0.0;  // sums over modes
  double decode_seconds = 0.0;
  std::vector<ModeRun> runs;  // of each mode
};

// A sink that records what the device computes, or null. Asked once per
// reported row, for the first mode.
using MakeRecorder = std::function<std::unique_ptr<format::RowSink>(
    const ReferenceEntry& entry, const format::RowSource& reference, std::size_t row)>;

[[nodiscard]] BatchReplayResult replay_batch(
    engine::Model& model, std::span<const ReferenceEntry> entries, const PlannedBatch& batch,
    const BatchReplayOptions& options, const MakeRecorder& make_recorder,
    const std::function<engine::Progress(format::ReplayMode)>& progress, Observer& observer);

// The block size for the longest of these recordings. Inputs can be pooled only
// when all of a model have the same: the largest.
[[nodiscard]] std::uint64_t block_positions_for(std::span<const ReferenceEntry> entries);

}  // namespace kvtool::run
