#include "compare_pair.h"

#include <algorithm>
#include <chrono>
#include <deque>
#include <future>
#include <utility>

#include "kvtool/analysis/logit_noise.h"
#include "kvtool/analysis/model_config.h"
#include "kvtool/analysis/provenance.h"
#include "kvtool/base/error.h"
#include "kvtool/format/meta.h"
#include "kvtool/format/reader.h"

namespace kvtool::run {
namespace {

using format::Recording;

// How the steps of a replay were fed; recordings of kvtools that only injected
// do not say it.
format::ReplayMode replayed_mode(const format::MetaReplayOf& replay) {
  const auto mode = format::parse_replay_mode(replay.mode.value_or(""));
  return mode.value_or(format::ReplayMode::kInject);
}

format::MetaReplayOf replay_of(const Recording& recording) {
  return format::Meta::parse(recording.meta()).replay_of.value_or(format::MetaReplayOf());
}

// One side replayed the other, or both replayed the same recording in one mode:
// the steps were fed alike. Otherwise each went its own way.
format::ReplayMode mode_of(const Recording& reference, const Recording& live) {
  const format::MetaReplayOf recorded_from = replay_of(reference);
  const format::MetaReplayOf live_from = replay_of(live);
  if (live_from.uuid == format::to_string(reference.header().uuid)) return replayed_mode(live_from);
  if (recorded_from.uuid == format::to_string(live.header().uuid)) {
    return replayed_mode(recorded_from);
  }
  const bool alike = !live_from.uuid.value_or("").empty() && live_from.uuid == recorded_from.uuid &&
                     replayed_mode(live_from) == replayed_mode(recorded_from);
  return alike ? replayed_mode(live_from) : format::ReplayMode::kFree;
}

// Why equal chats have other prompts, where a chat template has read the clock.
std::string clocks_of(const Recording& reference, const Recording& live) {
  const auto recorded = format::text_at(reference.meta(), "prompt.clock");
  const auto other = format::text_at(live.meta(), "prompt.clock");
  if (!recorded || !other || *recorded == *other) return {};
  return "; the chat template reads the clock, which was " + *recorded + " and " + *other +
         ": record the second one from the token ids of the first";
}

void check_prompts(const Recording& reference, const Recording& live) {
  const auto recorded = reference.prompt();
  const auto other = live.prompt();
  if (std::equal(recorded.begin(), recorded.end(), other.begin(), other.end())) return;
  const auto [first, unused] =
      std::mismatch(recorded.begin(), recorded.end(), other.begin(), other.end());
  throw_incompatible(reference.path().string() + " cannot be compared with " +
                     live.path().string() + ": another prompt, of " +
                     std::to_string(recorded.size()) + " tokens against " +
                     std::to_string(other.size()) + ", different from position " +
                     std::to_string(first - recorded.begin()) + " on" + clocks_of(reference, live));
}

ModelDescription model_of(const Recording& recording, const ReferenceEntry& entry) {
  const ModelIdentity identity = identity_of(recording);
  const format::MetaModel meta = format::Meta::parse(recording.meta()).model;
  return {.id = identity.id,
          .slug = entry.model_slug.empty()
                      ? std::filesystem::absolute(entry.path).parent_path().filename().string()
                      : entry.model_slug,
          .path = {},
          .architecture = identity.architecture,
          .dtype = identity.dtype,
          .num_layers = identity.geometry.num_layers(),
          .weights_sha256 = format::to_hex(identity.weights_sha256),
          .config_sha256 = meta.config_sha256.value_or(""),
          .graph_sha256 = meta.graph_sha256.value_or("")};
}

void warn_truncated(const Recording& recording, std::vector<std::string>& warnings) {
  if (recording.complete()) return;
  warnings.push_back(recording.path().string() + " is truncated (" + recording.truncation() +
                     "): comparing its " + std::to_string(recording.num_steps()) + " whole steps");
}

void warn_lengths(const Recording& reference, const Recording& live, format::ReplayMode mode,
                  std::vector<std::string>& warnings) {
  // Free rows may end where they like; that shows as tokens.
  const bool complete = reference.complete() && live.complete();
  if (mode == format::ReplayMode::kFree || !complete) return;
  if (live.num_steps() == reference.num_steps()) return;
  warnings.push_back(live.path().string() + " has " + std::to_string(live.num_steps()) +
                     " steps, " + reference.path().string() + " " +
                     std::to_string(reference.num_steps()) + ": the common ones are compared");
}

// A recording that stops being read when the run ends early.
class StoppableSource final : public format::RowSource {
 public:
  StoppableSource(const format::RowSource& source, const StopToken& stop)
      : source_(source), stop_(stop) {}

  [[nodiscard]] const format::RecordingHeader& header() const override { return source_.header(); }
  [[nodiscard]] std::span<const std::int32_t> prompt() const override { return source_.prompt(); }
  [[nodiscard]] std::uint64_t num_steps() const override { return source_.num_steps(); }
  [[nodiscard]] bool has_prefill_kv() const override { return source_.has_prefill_kv(); }
  [[nodiscard]] bool has_step_kv() const override { return source_.has_step_kv(); }
  [[nodiscard]] format::StepStats prefill_stats() const override { return source_.prefill_stats(); }
  void read_prefill_layer(std::uint32_t layer, std::span<std::byte> key,
                          std::span<std::byte> value) const override {
    stop_.throw_if_requested();
    source_.read_prefill_layer(layer, key, value);
  }
  [[nodiscard]] format::StepStats read_step(std::uint64_t step,
                                            std::span<std::byte> delta) const override {
    stop_.throw_if_requested();
    return source_.read_step(step, delta);
  }

 private:
  const format::RowSource& source_;
  StopToken stop_;
};

analysis::RowComparison compare(const format::RowSource& reference, const format::RowSource& live,
                                const DiffOptions& options) {
  analysis::ComparisonOptions comparison;
  comparison.bounds = options.flip_bounds;
  comparison.block_positions = options.block_positions;
  comparison.live_geometry = live.header().geometry;
  comparison.live_logits_dtype = live.header().logits_dtype;
  comparison.live_logits = analysis::held_logits(live.header());
  analysis::RowComparator comparator(reference, comparison);
  format::feed_row(StoppableSource(live, options.stop), comparator,
                   {.stop_reason = format::StopReason::kRecordingEnd});
  return comparator.result();
}

std::uint64_t compared_bytes(const format::RowSource& reference, const format::RowSource& live,
                             std::uint64_t steps) {
  std::uint64_t positions = 0;
  if (reference.has_prefill_kv() && live.has_prefill_kv()) {
    positions += reference.header().prompt_length;
  }
  if (reference.has_step_kv() && live.has_step_kv()) positions += steps;
  return positions *
         (reference.header().geometry.position_bytes() + live.header().geometry.position_bytes());
}

// The comparisons that run now, the oldest one first.
class RunningDiffs {
 public:
  explicit RunningDiffs(const StopToken& stop) : stop_(stop) {}
  // Waits for all of them, soon.
  ~RunningDiffs() { ended_.request_stop(); }
  RunningDiffs(const RunningDiffs&) = delete;
  RunningDiffs& operator=(const RunningDiffs&) = delete;

  [[nodiscard]] std::size_t size() const { return futures_.size(); }

  void start(const DiffPlan& plan, DiffOptions options) {
    options.stop = ended_.token();
    futures_.push_back(
        std::async(std::launch::async, [&plan, options] { return compare_pair(plan, options); }));
  }

  DiffResult take_oldest() {
    constexpr std::chrono::milliseconds kPoll(50);
    do {
      stop_.throw_if_requested();
    } while (futures_.front().wait_for(kPoll) != std::future_status::ready);
    DiffResult result = futures_.front().get();
    futures_.pop_front();
    return result;
  }

 private:
  StopToken stop_;
  StopSource ended_;  // outlives the futures, whose destructors wait
  std::deque<std::future<DiffResult>> futures_;
};

InputResult describe_input(const DiffPlan& plan) {
  const ReferenceEntry& entry = plan.pair.reference;
  const format::RunMeta run = plan.pair.live.run.value_or(format::RunMeta());
  InputResult input;
  input.model_slug = plan.model.slug;
  input.batch_size = entry.batch_size;
  input.rows = run.rows;
  input.row = run.row;
  input.input_index = entry.input_index;
  input.prompt_length = entry.prompt_length;
  input.prompt_text = entry.prompt_text.value_or("");
  return input;
}

}  // namespace

DiffPlan plan_diff(RecordingPair pair, bool allow_different_weights) {
  const Recording& reference = *pair.reference.recording;
  const Recording& live = *pair.live.recording;
  DiffPlan plan;
  plan.differences =
      check_same_model(identity_of(reference), identity_of(live), allow_different_weights);
  check_prompts(reference, live);
  plan.model = model_of(live, pair.live);
  plan.mode = mode_of(reference, live);
  plan.context = {.model = plan.model.id,
                  .model_slug = plan.model.slug,
                  .dtype = plan.model.dtype,
                  .reference_device = pair.reference.device_label,
                  .device = pair.live.device_label,
                  .demanded_mode = plan.mode,
                  .reference_cache = pair.reference.kv_cache,
                  .cache = pair.live.kv_cache,
                  .measures_noise = analysis::show_noise(analysis::held_logits(reference.header()),
                                                         analysis::held_logits(live.header())),
                  .routed_layers = analysis::routed_layers(reference.meta())};
  plan.provenance = analysis::compare_provenance(reference.meta(), live.meta());
  plan.numerics = analysis::compare_numerics(reference.meta(), live.meta(), plan.provenance);
  warn_truncated(reference, plan.warnings);
  warn_truncated(live, plan.warnings);
  warn_lengths(reference, live, plan.mode, plan.warnings);
  plan.pair = std::move(pair);
  return plan;
}

DiffResult compare_pair(const DiffPlan& plan, const DiffOptions& options) {
  const Recording& reference = *plan.pair.reference.recording;
  const Recording& live = *plan.pair.live.recording;
  const auto recorded_row = format::make_row_source(reference);
  const auto live_row = format::make_row_source(live);

  ModeReplay mode;
  mode.mode = plan.mode;
  mode.comparison = compare(*recorded_row, *live_row, options);
  const std::uint64_t tokens = mode.comparison.tokens.size();
  mode.texts.resize(tokens);  // recordings hold no token table
  mode.timing.steps = tokens == 0 ? 0 : tokens - 1;
  mode.own_step_kv = plan.mode == format::ReplayMode::kInject && !recorded_row->has_step_kv();

  DiffResult result;
  result.compared_bytes = compared_bytes(*recorded_row, *live_row, mode.timing.steps);
  result.input = describe_input(plan);
  result.input.timing = mode.timing;
  Replay& replay = result.input.replay.emplace();
  replay.recording = reference.path().string();
  replay.live = live.path().string();
  replay.recorded_device = plan.context.reference_device;
  replay.reference_cache = plan.context.reference_cache;
  replay.cache = plan.context.cache;
  replay.save_mode = format::save_mode_name(reference.header().save_mode);
  replay.truncation = reference.truncation();
  replay.reference_has_prefill_kv = recorded_row->has_prefill_kv();
  replay.different_weights = plan.differences.weights;
  replay.different_config = plan.differences.config;
  replay.provenance = plan.provenance;
  replay.numerics = plan.numerics;
  replay.modes.push_back(std::move(mode));
  // The pair is done, but stays open with all others.
  reference.release_buffers();
  live.release_buffers();
  return result;
}

void compare_in_order(std::span<const DiffPlan> plans, unsigned threads, const StopToken& stop,
                      const std::function<DiffOptions(const DiffPlan&)>& options_for,
                      const std::function<void(const DiffPlan&, const DiffResult&)>& due) {
  RunningDiffs running(stop);
  std::size_t started = 0;
  for (const DiffPlan& plan : plans) {
    while (started < plans.size() && running.size() < threads) {
      running.start(plans[started], options_for(plans[started]));
      ++started;
    }
    due(plan, running.take_oldest());
  }
}

}  // namespace kvtool::run
