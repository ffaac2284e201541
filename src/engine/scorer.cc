// What the model expects of the tokens of texts that it reads through a cache.
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <string>
#include <vector>

#include "engine/batch_run.h"
#include "engine/logit_stats.h"
#include "engine/stopwatch.h"
#include "engine/torch_model.h"
#include "kvtool/base/error.h"
#include "kvtool/cache/key_budget.h"

namespace kvtool::engine {
namespace {

// The choice alone, and the logit of the token that is given.
constexpr std::int64_t kScoreTopK = 1;
constexpr GatheredLogits kGivenToken{.at_reference_top = 1};
// A device may be so many steps behind (BatchRun keeps the tokens of more).
constexpr std::size_t kStepsUnderWay = 8;

// Steps that score every token of the text: the first comes from the prompt pass.
std::int64_t steps_of(const ScoreInput& input) {
  return static_cast<std::int64_t>(input.token_ids.size() - input.prompt_length) - 1;
}

std::int64_t longest_of(std::span<const ScoreInput> inputs) {
  std::int64_t steps = 0;
  for (const ScoreInput& input : inputs) steps = std::max(steps, steps_of(input));
  return steps;
}

void check_inputs(std::span<const ScoreInput> inputs) {
  if (inputs.empty()) throw_misuse("score(): no text");
  for (const ScoreInput& input : inputs) {
    if (input.prompt_length >= 1 && input.prompt_length < input.token_ids.size()) continue;
    throw_misuse("score(): a prompt of " + std::to_string(input.prompt_length) +
                 " tokens of a text of " + std::to_string(input.token_ids.size()));
  }
}

BatchShape make_score_shape(const TorchModel& model, std::span<const ScoreInput> inputs,
                            const cache::CacheSpec& kv_cache) {
  check_inputs(inputs);
  std::vector<std::span<const std::int32_t>> prompts;
  std::size_t padded = 0;
  for (const ScoreInput& input : inputs) {
    prompts.push_back(std::span(input.token_ids).first(input.prompt_length));
    padded = std::max<std::size_t>(padded, input.prompt_length);
  }
  const std::int64_t length = static_cast<std::int64_t>(padded);
  const std::int64_t capacity = length + longest_of(inputs);
  if (static_cast<std::uint64_t>(capacity) > model.info.max_positions) {
    throw_usage("to score a text of " + std::to_string(capacity + 1) + " tokens takes " +
                std::to_string(capacity) + " positions, the model takes " +
                std::to_string(model.info.max_positions) + ": shorten the text");
  }
  cache::KeyBudget(kv_cache).check(static_cast<std::uint64_t>(capacity));
  return BatchShape(std::move(prompts), length, capacity);
}

class Scoring {
 public:
  Scoring(TorchModel& model, std::span<const ScoreInput> inputs, const ScoreOptions& options)
      : spare_cache_(model.spare_cache),
        inputs_(inputs),
        steps_(longest_of(inputs)),
        stats_(model.info.vocab_size, kScoreTopK, kGivenToken, model.device),
        run_(*model.module, model.layout, make_score_shape(model, inputs, options.kv_cache),
             model.device, model.spare_cache.maker(options.kv_cache, model.rotations)),
        given_(given_tokens().to(model.device)) {
    for (const ScoreInput& input : inputs_) {
      result_.texts.emplace_back().tokens.reserve(static_cast<std::size_t>(steps_of(input) + 1));
    }
  }

  ScoreResult execute(const Progress& progress) {
    take(run_.prefill(), 0);
    collect();
    result_.timing.prefill_seconds = static_cast<double>(watch_.lap()) * 1e-9;
    tell(progress, 0);
    for (std::int64_t step = 0; step < steps_; ++step) {
      take(run_.decode(step, tokens_at(step)), step + 1);
      if (packed_.size() == kStepsUnderWay || run_.device().is_cpu()) collect();
      tell(progress, step + 1);
    }
    collect();
    result_.timing.decode_seconds = static_cast<double>(watch_.lap()) * 1e-9;
    result_.timing.decode_steps = static_cast<std::uint64_t>(steps_);
    result_.cache_use = run_.cache().use();
    spare_cache_.give_back(run_.take_cache());
    return std::move(result_);
  }

 private:
  void tell(const Progress& progress, std::int64_t done) const {
    if (progress) progress(static_cast<std::uint64_t>(done), static_cast<std::uint64_t>(steps_));
  }

  // Token number `index` after a prompt; its last where the text has ended.
  static std::int32_t token_after_prompt(const ScoreInput& input, std::int64_t index) {
    const std::size_t at = input.prompt_length + static_cast<std::size_t>(index);
    return input.token_ids[std::min(at, input.token_ids.size() - 1)];
  }

  [[nodiscard]] std::vector<std::int32_t> tokens_at(std::int64_t index) const {
    std::vector<std::int32_t> tokens;
    for (const ScoreInput& input : inputs_) tokens.push_back(token_after_prompt(input, index));
    return tokens;
  }

  // i64 [steps + 1, B, columns]: what each pass gathers.
  [[nodiscard]] at::Tensor given_tokens() const {
    const auto rows = static_cast<std::int64_t>(inputs_.size());
    at::Tensor given = at::zeros({steps_ + 1, rows, kGivenToken.columns()}, at::kLong);
    auto places = given.accessor<std::int64_t, 3>();
    for (std::int64_t index = 0; index <= steps_; ++index) {
      const std::vector<std::int32_t> tokens = tokens_at(index);
      for (std::int64_t row = 0; row < rows; ++row) {
        places[index][row][0] = tokens[static_cast<std::size_t>(row)];
      }
    }
    return given;
  }

  // Logits that are to say token number `index` after the prompts.
  void take(const at::Tensor& logits, std::int64_t index) {
    packed_.push_back(stats_.pack(logits, given_.select(0, index)));
  }

  // Waits for the device.
  void collect() {
    if (packed_.empty()) return;
    const at::Tensor host = at::stack(packed_).cpu();
    for (std::int64_t i = 0; i < host.size(0); ++i) read(host.select(0, i).contiguous());
    packed_.clear();
  }

  // packed: i64 [B, packed_width()].
  void read(const at::Tensor& packed) {
    const auto width = static_cast<std::size_t>(stats_.packed_width());
    for (std::size_t row = 0; row < inputs_.size(); ++row) {
      std::vector<TokenScore>& scores = result_.texts[row].tokens;
      const auto index = static_cast<std::int64_t>(scores.size());
      if (index > steps_of(inputs_[row])) continue;
      stats_.unpack({packed.const_data_ptr<std::int64_t>() + row * width, width}, unpacked_);
      scores.push_back({.log_probability = static_cast<double>(unpacked_.at_reference_top.front()) -
                                           unpacked_.logsumexp,
                        .is_greedy = unpacked_.token == token_after_prompt(inputs_[row], index)});
    }
  }

  SpareCache& spare_cache_;
  std::span<const ScoreInput> inputs_;
  std::int64_t steps_;
  LogitStats stats_;
  BatchRun run_;
  at::Tensor given_;                // on the device
  std::vector<at::Tensor> packed_;  // of passes whose results are still there
  format::StepStats unpacked_;
  Stopwatch watch_;
  ScoreResult result_;
};

}  // namespace

ScoreResult score(TorchModel& model, std::span<const ScoreInput> inputs,
                  const ScoreOptions& options, const Progress& progress) {
  const c10::InferenceMode guard;
  return Scoring(model, inputs, options).execute(progress);
}

}  // namespace kvtool::engine
