// Parallel replay: since the recording knows every token and the K/V before it,
// all steps of an input are one forward pass, and several inputs share a pass.
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/batch_run.h"
#include "engine/cache/faulty_cache.h"
#include "engine/cache/parallel_cache.h"
#include "engine/cache/policies.h"
#include "engine/forward_pass.h"
#include "engine/host_memory.h"
#include "engine/logit_stats.h"
#include "engine/parallel_plan.h"
#include "engine/reference_check.h"
#include "engine/reference_stage.h"
#include "engine/stopwatch.h"
#include "engine/torch_model.h"
#include "kvtool/base/error.h"
#include "kvtool/base/setting.h"
#include "kvtool/cache/key_budget.h"

namespace kvtool::engine {
namespace {

// Rows of logits whose statistics are computed together; a device that does so
// with tensors needs some copies of them.
constexpr std::int64_t kStatsRows = 32;
RowLength length_of(const ReplayRow& row) {
  return {static_cast<std::int64_t>(row.reference->prompt().size()),
          static_cast<std::int64_t>(row.reference->num_steps())};
}

void check_supported(const ReplayOptions& options) {
  if (options.mode != format::ReplayMode::kFree) return;
  throw_usage(
      "a parallel replay knows every token beforehand, so it cannot run the mode free: leave " +
      setting("parallel") + " out, or choose " + setting("mode") + " inject or forced");
}

class ParallelReplay {
 public:
  ParallelReplay(TorchModel& model, const ReplayBatch& batch, const ReplayOptions& options,
                 std::span<format::RowSink* const> sinks)
      : model_(model),
        batch_(batch),
        injects_(options.mode == format::ReplayMode::kInject),
        references_(check_references(model.info, batch, options.allow_different_weights)),
        reference_layout_(references_.geometry),
        stats_(model.info.vocab_size, references_.top_k, references_.gathered, model.device),
        make_cache_(cache_maker(options.kv_cache, model.rotations)),
        cache_(model.layout),
        limits_(pass_limits(model.info, options.kv_cache, options.parallel_memory_bytes)),
        rows_(batch.rows.size()) {
    for (std::size_t index = 0; index < rows_.size(); ++index) {
      lengths_.push_back(length_of(batch.rows[index]));
      check_positions(lengths_[index].prompt, lengths_[index].steps + 1, model.info.max_positions);
      rows_[index].source = batch.rows[index].reference;
      if (index < sinks.size()) rows_[index].sink = sinks[index];
    }
    std::uint64_t longest = batch.cache_capacity;
    for (const RowLength& length : lengths_) {
      longest = std::max(longest, static_cast<std::uint64_t>(length.prompt + length.steps));
    }
    cache::KeyBudget(options.kv_cache).check(longest);
    if (options.measure_attention) throw_misuse("attention is measured step by step");
    if (options.fault) {
      check_fault(*options.fault, model.info, batch);
      fault_.emplace(cache_, *options.fault);
    }
  }

  ReplayResult execute(const Progress& progress) {
    std::uint64_t total = 0;
    for (const RowLength& length : lengths_) total += static_cast<std::uint64_t>(length.steps);
    ReplayResult result;
    if (progress) progress(0, total);
    for (const std::vector<PlannedPiece>& planned : plan_passes(lengths_, limits_)) {
      run_pass(planned);
      for (const PlannedPiece& piece : planned) {
        result.timing.decode_steps += static_cast<std::uint64_t>(piece.steps);
      }
      if (progress) progress(result.timing.decode_steps, total);
    }
    result.timing.prefill_seconds = prefill_seconds_;
    result.timing.decode_seconds = decode_seconds_;
    result.cache_use = use_;
    result.cache_use.applied_rows = counted_.applied_rows;
    result.cache_use.evicted_rows = counted_.evicted_rows;
    result.cache_use.visible_keys = counted_.visible_keys;
    result.cache_use.seen_keys = counted_.seen_keys;
    result.cache_use.most_visible_keys = counted_.most_visible_keys;
    for (const ReplayRow& row : batch_.rows) {
      result.own_step_kv.push_back(!injects_ || !row.reference->has_step_kv());
    }
    return result;
  }

 private:
  struct Row {
    const format::RowSource* source = nullptr;
    format::RowSink* sink = nullptr;
    std::unique_ptr<ParallelRow> kept;  // from the row's first pass to its last
    // Of the current pass: what was read of the reference for it.
    std::vector<LayerKv> recorded_prompt;           // per layer; empty unless it has the prompt
    std::vector<format::StepStats> recorded_stats;  // per step
    at::Tensor recorded_deltas;                     // u8 [steps, row stride], or undefined
  };

  // What one pass feeds and asks for, on the host.
  struct PassInput {
    GatheredIds gathered;  // in its only buffer a row for each of `keep`
    std::vector<std::int64_t> tokens = {};
    std::vector<std::int64_t> positions = {};
    std::vector<std::int64_t> keep = {};  // indices whose logits are wanted

    // Those of the last of `tokens`, which yield token number `token` of a row.
    void keep_logits(std::uint64_t token, const format::StepStats& reference) {
      const auto row = static_cast<std::int64_t>(keep.size());
      gathered.set_sample_of_row(0, row, token);
      gathered.set_reference_top(0, row, reference.top_ids);
      keep.push_back(static_cast<std::int64_t>(tokens.size()) - 1);
    }
  };

  void run_pass(const std::vector<PlannedPiece>& planned) {
    watch_.lap();
    PassInput input{GatheredIds(model_.info.vocab_size, stats_.gathered(), logit_rows(planned),
                                /*buffers=*/1, model_.device)};
    std::vector<ParallelPiece> pieces;
    for (const PlannedPiece& piece : planned) pieces.push_back(prepare(piece, input));
    const auto count = static_cast<std::int64_t>(input.tokens.size());
    const at::Tensor own_rows = at::zeros({count, model_.layout.row_stride_bytes()},
                                          at::TensorOptions(at::kByte).device(model_.device));
    const at::Tensor packed = run_pieces(input, planned, pieces, own_rows);
    take_use(pieces);
    const at::Tensor host_rows = own_rows.cpu();
    const std::int64_t elapsed = watch_.lap();
    count_time(elapsed, pieces);
    deliver(planned, pieces, packed, host_rows, elapsed / count);
    count_time(watch_.lap(), pieces);
  }

  // The packed statistics of the kept tokens. A NaN reaches every query that shares a product with
  // it, seen or not, so a pass with one runs again with such queries apart.
  at::Tensor run_pieces(PassInput& input, const std::vector<PlannedPiece>& planned,
                        const std::vector<ParallelPiece>& pieces, const at::Tensor& own_rows) {
    const std::vector<StepSpan> steps = spans_of(planned, pieces);
    const at::Tensor ids = input.gathered.to_device(0);
    const auto run = [&](ParallelCache::Queries queries) {
      cache_.begin(pieces, own_rows, queries);
      const at::Tensor logits = forward(input, steps);
      cache_.end();
      return pack(logits, ids);
    };
    const at::Tensor packed = run(ParallelCache::Queries::kTogether);
    return all_have_choice(packed) ? packed : run(ParallelCache::Queries::kApartWhereNotFinite);
  }

  [[nodiscard]] bool all_have_choice(const at::Tensor& packed) const {
    for (std::int64_t row = 0; row < packed.size(0); ++row) {
      if (stats_.choice(packed_row(packed, row)) < 0) return false;
    }
    return true;
  }

  [[nodiscard]] static std::span<const std::int64_t> packed_row(const at::Tensor& packed,
                                                                std::int64_t row) {
    const at::Tensor values = packed.select(0, row);
    return {values.const_data_ptr<std::int64_t>(), static_cast<std::size_t>(values.numel())};
  }

  // Logits [kept tokens, vocab].
  at::Tensor forward(const PassInput& input, const std::vector<StepSpan>& steps) {
    const std::string what = "a pass over " + std::to_string(input.tokens.size()) + " tokens";
    const at::Tensor ids = to_device(input.tokens).unsqueeze(0);
    const at::Tensor positions = to_device(input.positions).unsqueeze(0);
    const at::Tensor keep = to_device(input.keep);
    const auto run = [&](CachePolicy& policy, std::int64_t later) {
      return run_forward(*model_.module, policy, what, ids,
                         later == 0 ? positions : positions + later, keep)
          .squeeze(0);
    };
    return fault_ ? fault_->run(steps, run) : run(cache_, 0);
  }

  // What a fault acts on. `pieces` outlive the result.
  [[nodiscard]] std::vector<StepSpan> spans_of(const std::vector<PlannedPiece>& planned,
                                               const std::vector<ParallelPiece>& pieces) {
    std::vector<StepSpan> spans;
    for (std::size_t index = 0; index < pieces.size(); ++index) {
      const ParallelPiece& piece = pieces[index];
      spans.push_back({.position = piece.offset + piece.prompt,
                       .first_step = piece.first_step,
                       .steps = piece.steps,
                       .has_first_row = planned[index].row == 0,
                       .slot_before = [this, &piece](const AttentionCall& call, std::int64_t step) {
                         return cache_.slot_before(call, piece, step);
                       }});
    }
    return spans;
  }

  // Rows are still there: deliver() drops those that have ended.
  void take_use(const std::vector<ParallelPiece>& pieces) {
    cache::CacheUse now;
    for (const Row& row : rows_) {
      if (row.kept) now += row.kept->use();
    }
    for (const ParallelPiece& piece : pieces) {
      if (piece.is_last) counted_ += piece.row->use();
    }
    if (now.physical_bytes >= use_.physical_bytes) use_ = now;
  }

  // Every token of a pass costs the same.
  void count_time(std::int64_t elapsed_ns, const std::vector<ParallelPiece>& pieces) {
    std::int64_t tokens = 0;
    std::int64_t prompts = 0;
    for (const ParallelPiece& piece : pieces) {
      tokens += piece.tokens();
      prompts += piece.prompt;
    }
    const double per_token = static_cast<double>(elapsed_ns) * 1e-9 / static_cast<double>(tokens);
    prefill_seconds_ += per_token * static_cast<double>(prompts);
    decode_seconds_ += per_token * static_cast<double>(tokens - prompts);
  }

  [[nodiscard]] at::Tensor to_device(const std::vector<std::int64_t>& values) const {
    return at::tensor(values, at::kLong).to(model_.device);
  }

  [[nodiscard]] static std::int64_t logit_rows(const std::vector<PlannedPiece>& planned) {
    std::int64_t rows = 0;
    for (const PlannedPiece& piece : planned) rows += (piece.with_prompt ? 1 : 0) + piece.steps;
    return rows;
  }

  [[nodiscard]] at::Tensor pack(const at::Tensor& logits, const at::Tensor& ids) const {
    at::Tensor packed = at::empty({logits.size(0), stats_.packed_width()}, at::kLong);
    for (std::int64_t first = 0; first < logits.size(0); first += kStatsRows) {
      const std::int64_t rows = std::min(kStatsRows, logits.size(0) - first);
      packed.narrow(0, first, rows)
          .copy_(stats_.pack(logits.narrow(0, first, rows),
                             ids.defined() ? ids.narrow(0, first, rows) : ids));
    }
    return packed;
  }

  // Loads what the piece's steps see and appends its tokens to the pass.
  ParallelPiece prepare(const PlannedPiece& planned, PassInput& input) {
    Row& row = rows_[planned.row];
    const format::RowSource& source = *row.source;
    const RowLength& length = lengths_[planned.row];
    ParallelPiece piece;
    piece.offset = static_cast<std::int64_t>(input.tokens.size());
    piece.first_step = planned.first_step;
    piece.steps = planned.steps;
    piece.is_last = planned.first_step + planned.steps == length.steps;
    if (planned.with_prompt) {
      row.kept = begin_row(source, length);
      if (row.sink != nullptr) check_final_state(row.sink->needs(), *row.kept->policy);
      if (!row.kept->keeps_own_prompt) load_prompt(row);
      piece.prompt = length.prompt;
      for (std::int64_t position = 0; position < length.prompt; ++position) {
        input.tokens.push_back(source.prompt()[static_cast<std::size_t>(position)]);
        input.positions.push_back(position);
      }
      input.keep_logits(0, source.prefill_stats());
    }
    piece.row = row.kept.get();
    load_steps(planned, row);
    for (std::int64_t step = 0; step < planned.steps; ++step) {
      const format::StepStats& recorded = row.recorded_stats[static_cast<std::size_t>(step)];
      input.tokens.push_back(recorded.input_token);
      input.positions.push_back(length.prompt + planned.first_step + step);
      input.keep_logits(static_cast<std::uint64_t>(planned.first_step + step + 1), recorded);
    }
    return piece;
  }

  std::unique_ptr<ParallelRow> begin_row(const format::RowSource& source, const RowLength& length) {
    auto kept = std::make_unique<ParallelRow>(model_.layout, source.prompt(), length.steps,
                                              model_.device, make_cache_);
    kept->keeps_own_prompt = !injects_ || !source.has_prefill_kv();
    kept->keeps_own_steps = !injects_ || !source.has_step_kv();
    return kept;
  }

  void load_prompt(Row& row) const {
    const PromptTarget target{reference_layout_, row.kept->shape, *row.kept->cache};
    for (std::int64_t layer = 0; layer < reference_layout_.num_layers(); ++layer) {
      LayerKv prompt = read_prompt_layer(*row.source, reference_layout_, layer);
      target.write(0, layer, prompt);
      if (row.sink != nullptr) row.recorded_prompt.push_back(std::move(prompt));
    }
  }

  // The statistics of the steps, with the tokens that they feed, and the recorded K/V that they
  // see.
  void load_steps(const PlannedPiece& planned, Row& row) const {
    ParallelRow& kept = *row.kept;
    const bool with_kv = !kept.keeps_own_steps && planned.steps > 0;
    at::Tensor deltas;  // u8 [steps, row stride], pinned on CUDA
    if (with_kv) {
      deltas = host_buffer({planned.steps, reference_layout_.row_stride_bytes()}, at::kByte,
                           model_.device);
    }
    row.recorded_stats.clear();
    for (std::int64_t step = 0; step < planned.steps; ++step) {
      const std::span<std::byte> kv = with_kv ? delta_of(deltas, step) : std::span<std::byte>();
      const auto number = static_cast<std::uint64_t>(planned.first_step + step);
      row.recorded_stats.push_back(row.source->read_step(number, kv));
    }
    if (!with_kv) return;
    kept.cache->write_slots(0, kept.shape.padded_length() + planned.first_step,
                            deltas.to(model_.device, /*non_blocking=*/true), reference_layout_);
    if (row.sink != nullptr) row.recorded_deltas = deltas;
  }

  [[nodiscard]] std::span<std::byte> delta_of(const at::Tensor& deltas, std::int64_t step) const {
    return bytes_of(deltas.select(0, step)).first(references_.geometry.delta_bytes());
  }

  // Rows are independent of one another, and a row has at most one piece in a pass.
  void deliver(const std::vector<PlannedPiece>& planned, const std::vector<ParallelPiece>& pieces,
               const at::Tensor& packed, const at::Tensor& own_rows, std::int64_t elapsed_ns) {
    std::vector<at::Tensor> packed_of;
    std::int64_t logit_row = 0;
    for (const ParallelPiece& piece : pieces) {
      const std::int64_t count = (piece.prompt > 0 ? 1 : 0) + piece.steps;
      packed_of.push_back(packed.narrow(0, logit_row, count));
      logit_row += count;
    }
    const auto count = static_cast<std::int64_t>(pieces.size());
    at::parallel_for(0, count, 1, [&](std::int64_t begin, std::int64_t end) {
      const c10::InferenceMode guard;
      for (auto index = static_cast<std::size_t>(begin); index < static_cast<std::size_t>(end);
           ++index) {
        Row& row = rows_[planned[index].row];
        const ParallelPiece& piece = pieces[index];
        const RowLength& length = lengths_[planned[index].row];
        if (row.sink != nullptr) {
          deliver_piece(row, piece, packed_of[index], own_rows, elapsed_ns);
          forget_recorded(row);
          if (piece.is_last) end_row(row, length);
        }
        if (piece.is_last) row.kept.reset();
      }
    });
  }

  void deliver_piece(const Row& row, const ParallelPiece& piece, const at::Tensor& packed,
                     const at::Tensor& own_rows, std::int64_t elapsed_ns) const {
    format::StepStats stats;
    std::int64_t logit_row = 0;
    const auto unpack_next = [&] {
      stats_.unpack(packed_row(packed, logit_row++), stats);
      stats.elapsed_ns = elapsed_ns;
    };
    const format::RowSink::Needs needs = row.sink->needs();
    if (piece.prompt > 0) {
      if (needs.prefill_kv) {
        deliver_prompt(row, own_rows.narrow(0, piece.offset, piece.prompt));
      }
      unpack_next();
      stats.input_token = -1;
      row.sink->on_prefill_end(stats);
    }
    for (std::int64_t step = 0; step < piece.steps; ++step) {
      unpack_next();
      const format::StepStats& recorded = row.recorded_stats[static_cast<std::size_t>(step)];
      stats.input_token = recorded.input_token;
      const at::Tensor delta = own_rows.select(0, piece.offset + piece.prompt + step);
      const auto number = static_cast<std::uint64_t>(piece.first_step + step);
      if (row.recorded_deltas.defined()) {
        row.sink->on_reference_step(number, recorded, delta_of(row.recorded_deltas, step));
      }
      row.sink->on_step(number, stats,
                        needs.step_kv
                            ? bytes_of(delta).first(model_.layout.geometry().delta_bytes())
                            : std::span<std::byte>());
    }
  }

  void deliver_prompt(const Row& row, const at::Tensor& rows) const {
    for (std::int64_t layer = 0; layer < model_.layout.num_layers(); ++layer) {
      const auto number = static_cast<std::uint32_t>(layer);
      const LayerKv state = model_.layout.layer_rows(rows, layer);
      const at::Tensor key = state.k.contiguous();
      const at::Tensor value = state.v.contiguous();
      if (!row.recorded_prompt.empty()) {
        const LayerKv& recorded = row.recorded_prompt[number];
        row.sink->on_reference_layer(number, bytes_of(recorded.k), bytes_of(recorded.v));
      }
      row.sink->on_prefill_layer(number, bytes_of(key), bytes_of(value));
    }
  }

  static void forget_recorded(Row& row) {
    row.recorded_prompt.clear();
    row.recorded_stats.clear();
    row.recorded_deltas.reset();
  }

  void end_row(const Row& row, const RowLength& length) const {
    if (row.sink->needs().final_kv) {
      const std::int64_t count = length.prompt + length.steps;
      for (std::int64_t layer = 0; layer < model_.layout.num_layers(); ++layer) {
        const LayerKv rows = model_.layout.empty_rows(layer, count, at::kCPU);
        row.kept->read_final(layer, rows);
        row.sink->on_final_layer(static_cast<std::uint32_t>(layer), bytes_of(rows.k),
                                 bytes_of(rows.v));
      }
    }
    row.sink->on_end({format::StopReason::kRecordingEnd, prefill_seconds_, decode_seconds_});
  }

  TorchModel& model_;
  const ReplayBatch& batch_;
  bool injects_;
  ReferenceFormat references_;
  RowLayout reference_layout_;
  LogitStats stats_;
  CacheMaker make_cache_;  // of each row
  ParallelCache cache_;    // of a pass, over theirs
  std::optional<FaultyCache> fault_;
  PassLimits limits_;
  std::vector<Row> rows_;
  std::vector<RowLength> lengths_;  // of rows_
  Stopwatch watch_;
  double prefill_seconds_ = 0.0;
  double decode_seconds_ = 0.0;
  cache::CacheUse use_;
  cache::CacheUse counted_;  // of it the counts of all rows, not bytes
};

}  // namespace

ReplayResult replay_in_parallel(TorchModel& model, const ReplayBatch& batch,
                                const ReplayOptions& options,
                                std::span<format::RowSink* const> sinks, const Progress& progress) {
  const c10::InferenceMode guard;
  check_supported(options);
  model.spare_cache.drop();
  ParallelReplay run(model, batch, options, sinks);
  return run.execute(progress);
}

}  // namespace kvtool::engine
