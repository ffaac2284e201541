#include "batch_replay.h"

#include <algorithm>
#include <utility>

#include "applied_check.h"
#include "kvtool/base/error.h"
#include "replay_cache.h"

namespace kvtool::run {
namespace {

// One row of a batch that is about to run. Everything a sink or the engine
// refers to lives here or in its entry.
struct LiveRow {
  const ReferenceEntry* entry = nullptr;
  std::shared_ptr<format::RowSource> source;  // stand-ins share it
  bool reported = false;                      // not a stand-in and asked for
  ReplayedRow result;
};

LiveRow open_row(const ReferenceEntry& entry, const PlannedRow& planned, std::size_t row,
                 std::size_t rows, std::shared_ptr<format::RowSource> source, Observer& observer) {
  LiveRow live;
  live.entry = &entry;
  const format::Recording& recording = *entry.recording;
  live.source = std::move(source);
  live.reported = !planned.stand_in && entry.selected;
  if (!live.reported) return live;
  if (!recording.complete()) {
    observer.log(LogLevel::kWarning, entry.path.string() + " is truncated (" +
                                         recording.truncation() + "): replaying its " +
                                         std::to_string(live.source->num_steps()) + " whole steps");
  }
  live.result.entry = &entry;
  live.result.row = row;
  live.result.rows = rows;
  live.result.save_mode = live.source->header().save_mode;
  live.result.truncation = recording.truncation();
  live.result.reference_has_prefill_kv = live.source->has_prefill_kv();
  return live;
}

void warn_missing(const PlannedBatch& batch, Observer& observer) {
  if (batch.missing.empty()) return;
  std::string names;
  for (const std::string& name : batch.missing) names += (names.empty() ? "" : ", ") + name;
  observer.log(LogLevel::kWarning, "a batch of " + std::to_string(batch.rows.size()) +
                                       " rows lacks " + names +
                                       ": a copy of another row stands in, its result is dropped");
}

void check_capacity(const engine::ModelInfo& model, std::span<const ReferenceEntry> entries,
                    const PlannedBatch& batch) {
  if (model.max_positions == 0 || batch.cache_capacity <= model.max_positions) return;
  throw_incompatible(entries[batch.rows.front().entry].path.string() + " was recorded with " +
                     std::to_string(batch.cache_capacity) + " positions, but " + model.model_id +
                     " has " + std::to_string(model.max_positions));
}

std::string text_between(const engine::Model& model, const std::vector<std::int32_t>& tokens,
                         std::size_t first) {
  std::string text;
  for (std::size_t i = first; i < tokens.size(); ++i) {
    if (tokens[i] >= 0) text += model.token_bytes(tokens[i]);
  }
  return text;
}

TokenText token_text(const engine::Model& model, const analysis::TokenComparison& token) {
  TokenText text;
  if (token.recorded >= 0) text.recorded = model.token_bytes(token.recorded);
  if (token.verdict != analysis::TokenVerdict::kMatch && token.predicted >= 0) {
    text.predicted = model.token_bytes(token.predicted);
  }
  return text;
}

ModeReplay mode_result(const engine::Model& model, format::ReplayMode mode,
                       const analysis::RowComparison& comparison, std::uint64_t steps,
                       const engine::ReplayResult& run, std::size_t row) {
  ModeReplay result;
  result.mode = mode;
  result.comparison = comparison;
  result.timing = {run.timing.prefill_seconds, run.timing.decode_seconds, steps};
  result.own_step_kv = row < run.own_step_kv.size() && run.own_step_kv[row];
  for (const analysis::TokenComparison& token : comparison.tokens) {
    result.texts.push_back(token_text(model, token));
  }
  if (comparison.uncompared_steps > 0) {
    result.own_text = text_between(model, comparison.live_tokens, comparison.tokens.size());
  }
  return result;
}

class BatchReplay {
 public:
  BatchReplay(engine::Model& model, std::span<const ReferenceEntry> entries,
              const PlannedBatch& batch, const BatchReplayOptions& options, Observer& observer)
      : model_(model),
        options_(options),
        kv_cache_(replay_cache(options.kv_cache, entries[batch.rows.front().entry])) {
    warn_missing(batch, observer);
    check_capacity(model.info(), entries, batch);
    live_.padded_length = batch.padded_length;
    live_.cache_capacity = batch.cache_capacity;
    for (std::size_t i = 0; i < batch.rows.size(); ++i) {
      const PlannedRow& planned = batch.rows[i];
      const ReferenceEntry& entry = entries[planned.entry];
      rows_.push_back(open_row(entry, planned, i, batch.rows.size(), source_of(entry), observer));
      live_.rows.push_back({rows_.back().source.get()});
    }
  }
  // Recordings stay open for the batches and trials that follow, their K/V does not.
  ~BatchReplay() {
    for (const LiveRow& row : rows_) row.entry->recording->release_buffers();
  }
  BatchReplay(const BatchReplay&) = delete;
  BatchReplay& operator=(const BatchReplay&) = delete;

  void run_mode(format::ReplayMode mode, const MakeRecorder& make_recorder,
                const engine::Progress& progress, BatchReplayResult& totals) {
    std::vector<std::unique_ptr<analysis::RowComparator>> comparators(rows_.size());
    std::vector<std::unique_ptr<format::RowSink>> recorders(rows_.size());
    std::vector<std::unique_ptr<format::RowSink>> tees(rows_.size());
    std::vector<format::RowSink*> sinks(rows_.size(), nullptr);
    for (std::size_t i = 0; i < rows_.size(); ++i) {
      if (!rows_[i].reported) continue;
      comparators[i] = std::make_unique<analysis::RowComparator>(
          *rows_[i].source, comparison_options(*rows_[i].entry));
      sinks[i] = comparators[i].get();
      if (make_recorder) recorders[i] = make_recorder(*rows_[i].entry, *rows_[i].source, i);
      if (!recorders[i]) continue;
      tees[i] = format::make_tee_sink({comparators[i].get(), recorders[i].get()});
      sinks[i] = tees[i].get();
    }
    engine::ReplayOptions options;
    options.mode = mode;
    options.allow_different_weights = options_.allow_different_weights;
    options.fault = options_.fault;
    options.parallel = options_.parallel;
    options.parallel_memory_bytes =
        options_.parallel_memory_bytes.value_or(options.parallel_memory_bytes);
    options.kv_cache = kv_cache_;
    options.measure_attention = options_.measure_attention;
    const engine::ReplayResult run = model_.replay(live_, options, sinks, progress);
    totals.runs.push_back({.mode = mode,
                           .cache_use = run.cache_use,
                           .prefill_seconds = run.timing.prefill_seconds,
                           .decode_seconds = run.timing.decode_seconds,
                           .decode_steps = run.timing.decode_steps,
                           .idle = idle_reason(run.cache_use),
                           .attention_errors = run.attention_errors});
    totals.prefill_seconds += run.timing.prefill_seconds;
    totals.decode_seconds += run.timing.decode_seconds;
    if (run.cache_use.peak_bytes >= totals.cache_use.peak_bytes) totals.cache_use = run.cache_use;
    for (std::size_t i = 0; i < rows_.size(); ++i) {
      if (!rows_[i].reported) continue;
      rows_[i].result.modes.push_back(mode_result(model_, mode, comparators[i]->result(),
                                                  rows_[i].source->num_steps(), run, i));
    }
  }

  [[nodiscard]] const cache::CacheSpec& kv_cache() const { return kv_cache_; }

  std::vector<ReplayedRow> take_results() {
    std::vector<ReplayedRow> results;
    for (LiveRow& row : rows_) {
      if (row.reported) results.push_back(std::move(row.result));
    }
    return results;
  }

 private:
  [[nodiscard]] std::string idle_reason(const cache::CacheUse& use) const {
    if (options_.refuse_idle) {
      check_applied(kv_cache_, length(), use);
      return {};
    }
    return cache::not_applied(kv_cache_, length(), use).value_or("");
  }

  [[nodiscard]] cache::RunLength length() const {
    cache::RunLength longest{
        .geometry = model_.info().geometry, .rows = rows_.size(), .in_parallel = options_.parallel};
    for (const LiveRow& row : rows_) {
      const std::uint64_t steps = row.source->num_steps();
      longest.positions = std::max(longest.positions, row.source->prompt().size() + steps);
      longest.steps = std::max(longest.steps, steps);
    }
    longest.capacity = std::max(live_.cache_capacity, live_.padded_length + longest.steps);
    return longest;
  }

  // One for all rows of an entry, so that the engine reads it once.
  [[nodiscard]] std::shared_ptr<format::RowSource> source_of(const ReferenceEntry& entry) const {
    const auto same = std::find_if(rows_.begin(), rows_.end(),
                                   [&](const LiveRow& row) { return row.entry == &entry; });
    return same == rows_.end() ? format::make_row_source(*entry.recording) : same->source;
  }

  [[nodiscard]] analysis::ComparisonOptions comparison_options(const ReferenceEntry& entry) const {
    analysis::ComparisonOptions options;
    if (options_.flip_bounds) options.bounds = options_.flip_bounds(entry);
    options.block_positions = options_.block_positions;
    options.live_geometry = model_.info().geometry;
    options.live_logits_dtype = model_.info().logits_dtype;
    return options;
  }

  engine::Model& model_;
  const BatchReplayOptions& options_;
  cache::CacheSpec kv_cache_;
  engine::ReplayBatch live_;
  std::vector<LiveRow> rows_;
};

}  // namespace

BatchReplayResult replay_batch(engine::Model& model, std::span<const ReferenceEntry> entries,
                               const PlannedBatch& batch, const BatchReplayOptions& options,
                               const MakeRecorder& make_recorder,
                               const std::function<engine::Progress(format::ReplayMode)>& progress,
                               Observer& observer) {
  BatchReplay replay(model, entries, batch, options, observer);
  BatchReplayResult result;
  result.kv_cache = replay.kv_cache();
  bool is_first = true;
  for (const format::ReplayMode mode : options.modes) {
    replay.run_mode(mode, is_first ? make_recorder : MakeRecorder(),
                    progress ? progress(mode) : engine::Progress(), result);
    is_first = false;
  }
  result.rows = replay.take_results();
  return result;
}

std::uint64_t block_positions_for(std::span<const ReferenceEntry> entries) {
  std::uint64_t longest = 1;
  for (const ReferenceEntry& entry : entries) {
    longest = std::max({longest, entry.prompt_length, entry.num_steps});
  }
  return analysis::choose_block_positions(longest);
}

}  // namespace kvtool::run
