#include "sample_results.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numbers>

namespace kvtool::report {
namespace {

using analysis::KvError;
using analysis::KvKind;
using analysis::KvProfile;
using analysis::TokenVerdict;

constexpr std::size_t kLayers = 6;

// Four elements of reference 1 or -1 with this relative L2, in bf16.
KvError error_of(double relative_l2) {
  KvError error;
  error.elements = 4;
  error.max_reference = 1.0;
  error.sum_squared_reference = 4.0;
  const double floor = analysis::storage_rounding_floor(DType::kBFloat16);
  error.sum_squared_floor = 4.0 * floor * floor;
  error.moments = {.count = 4, .live = 4.0, .reference = 4.0};
  error.moments.product = 4.0 * (1.0 - relative_l2 * relative_l2 / 3.0);
  error.ulps.add(0, relative_l2 > 0.0 ? 3 : 4);
  if (relative_l2 > 0.0) {
    error.differing = 1;
    error.max_abs = 2.0 * relative_l2;
    error.sum_squared_error = 4.0 * relative_l2 * relative_l2;
    error.ulps.add(3);
  }
  return error;
}

using ErrorAt = std::function<double(KvKind, std::size_t layer, std::uint64_t position)>;

// Two heads for each layer, blocks of 4 positions.
KvProfile profile_of(std::uint64_t positions, const ErrorAt& error_at) {
  KvProfile profile(std::vector<std::uint32_t>(kLayers, 2), 4);
  for (const KvKind kind : analysis::kKvKinds) {
    for (std::size_t layer = 0; layer < kLayers; ++layer) {
      for (std::uint64_t position = 0; position < positions; ++position) {
        const double error = error_at(kind, layer, position);
        profile.add(kind, layer, 0, position, error_of(error));
        profile.add(kind, layer, 1, position, error_of(error));
        profile.set_row_error(kind, layer, position, error);
      }
    }
  }
  return profile;
}

KvProfile equal_profile(std::uint64_t positions) {
  return profile_of(positions, [](KvKind, std::size_t, std::uint64_t) { return 0.0; });
}

analysis::TokenComparison matching_token(std::uint64_t index) {
  analysis::TokenComparison token;
  token.index = index;
  token.recorded = token.predicted = static_cast<std::int32_t>(10 + index);
  token.margin = 2.0;
  token.ulp = 0.125;
  token.kl = 0.001 * static_cast<double>(index);
  token.logits_equal = index == 0;
  token.top1_agrees = true;
  token.top5_overlap = 1.0;
  token.in_top5 = true;
  return token;
}

void set_mismatch(analysis::TokenComparison& token, TokenVerdict verdict, double gap) {
  token.predicted = 40;
  token.margin = gap;
  token.gap = gap;
  token.verdict = verdict;
  token.kl = 0.25;
  token.top1_agrees = false;
  token.top5_overlap = 0.8;
  token.in_top5 = verdict != TokenVerdict::kHardFlip;
  token.delta_p = -0.1;
}

run::ModeReplay matching_mode(format::ReplayMode mode, std::uint64_t tokens,
                              std::uint64_t prompt_length) {
  run::ModeReplay replay;
  replay.mode = mode;
  for (std::uint64_t i = 0; i < tokens; ++i) {
    replay.comparison.tokens.push_back(matching_token(i));
    replay.comparison.live_tokens.push_back(static_cast<std::int32_t>(10 + i));
    replay.texts.push_back({" w" + std::to_string(i), ""});
  }
  replay.comparison.prefill_kv = equal_profile(prompt_length);
  replay.comparison.first_bit_difference = 1;
  replay.timing = {0.25, 2.0, tokens - 1};
  return replay;
}

run::InputResult named_input(std::uint64_t row, std::uint64_t input_index) {
  run::InputResult input;
  input.model_slug = "tiny";
  input.batch_size = 4;
  input.rows = 4;
  input.row = row;
  input.input_index = input_index;
  input.prompt_text = "Hi";
  input.prompt_length = 2;
  run::Replay replay;
  replay.recording =
      "ref_cache/NVIDIA_H200/tiny/batch4_input" + std::to_string(input_index) + ".kvc";
  replay.recorded_device = "NVIDIA_H200";
  replay.save_mode = "delta";
  input.replay = std::move(replay);
  return input;
}

}  // namespace

run::InputResult generated_input() {
  run::InputResult input;
  input.model_slug = "tiny";
  input.batch_size = 1;
  input.rows = 1;
  input.prompt_text = "Hello\nworld";
  input.prompt_length = 3;
  input.timing = {0.5, 2.0, 3};
  input.generation = run::Generation{{7, 8, 9, 10}, "one two\x1b[2J", "eos"};
  input.saved = run::SavedRecording{"out/CPU/tiny/batch1_input0.kvc", 2'500'000, "delta"};
  return input;
}

run::InputResult replayed_input() {
  run::InputResult input = named_input(1, 5);
  run::ModeReplay mode = matching_mode(format::ReplayMode::kInject, 5, 2);
  set_mismatch(mode.comparison.tokens[2], TokenVerdict::kTie, 0.0625);
  mode.comparison.live_tokens[2] = 40;
  mode.comparison.step_kv = profile_of(4, [](KvKind kind, std::size_t, std::uint64_t) {
    return kind == KvKind::kKey ? 0.01 : 0.005;
  });
  // The euro sign is spread over tokens 0 and 1.
  mode.texts = {{"A\xE2\x82", ""}, {"\xAC", ""}, {" Paris", "\n"}, {" is", ""}, {".", ""}};
  input.timing = mode.timing;
  input.replay->modes.push_back(std::move(mode));
  return input;
}

run::InputResult three_mode_input() {
  run::InputResult input = named_input(2, 6);
  const auto noise = [](KvKind, std::size_t, std::uint64_t) { return 0.005; };
  run::ModeReplay inject = matching_mode(format::ReplayMode::kInject, 9, 2);
  inject.comparison.step_kv = profile_of(8, noise);

  run::ModeReplay forced = matching_mode(format::ReplayMode::kForced, 9, 2);
  forced.own_step_kv = true;
  set_mismatch(forced.comparison.tokens[6], TokenVerdict::kHardFlip, 1.5);
  forced.comparison.live_tokens[6] = 40;
  forced.texts[6].predicted = " wrong";
  forced.comparison.step_kv =
      profile_of(8, [](KvKind kind, std::size_t layer, std::uint64_t position) {
        return kind == KvKind::kKey && layer == 3 && position == 5 ? 0.9 : 0.005;
      });

  run::ModeReplay free = forced;
  free.mode = format::ReplayMode::kFree;
  free.comparison.tokens.resize(7);
  free.texts.resize(7);
  free.comparison.uncompared_steps = 2;
  free.comparison.live_tokens = {10, 11, 12, 13, 14, 15, 40, 41, 42};
  free.comparison.step_kv = profile_of(6, noise);
  free.own_text = " wrong way";

  input.timing = inject.timing;
  input.replay->modes = {inject, forced, free};
  return input;
}

namespace {

constexpr double kNoise = 0.0625;
constexpr double kFlipProbability = 0.25;

// As judge_noise() leaves a token.
void set_noise(analysis::TokenComparison& token, const analysis::FlipBounds& bounds) {
  token.noise = {.top = kNoise, .sample = kNoise / 2.0, .deviation = 2.5};
  token.noise_bound = bounds.noise_z * std::numbers::sqrt2 * kNoise;
  token.kl_estimate = {
      .value = 2.0 * token.kl, .standard_error = 0.1 * token.kl, .reliable = token.index != 1};
  token.flip_probability = kFlipProbability;
  token.hard_flip_probability = 0.0;
}

run::ModeReplay noisy_mode(format::ReplayMode mode) {
  run::ModeReplay replay = matching_mode(mode, 9, 2);
  replay.comparison.step_kv =
      profile_of(8, [](KvKind, std::size_t, std::uint64_t) { return 0.005; });
  return replay;
}

void finish_noise(run::ModeReplay& mode) {
  for (analysis::TokenComparison& token : mode.comparison.tokens) {
    set_noise(token, mode.comparison.bounds);
    if (token.verdict == TokenVerdict::kMatch) continue;
    mode.comparison.live_tokens[token.index] = token.predicted;
    mode.texts[token.index].predicted = " other";
  }
}

}  // namespace

run::InputResult noise_input() {
  run::InputResult input = named_input(3, 7);
  run::ModeReplay inject = noisy_mode(format::ReplayMode::kInject);
  set_mismatch(inject.comparison.tokens[3], TokenVerdict::kTie, 0.0625);
  set_mismatch(inject.comparison.tokens[5], TokenVerdict::kNoise, 0.1875);
  // Margins are the reference's, whatever the mode.
  inject.comparison.tokens[4].margin = 0.25;
  inject.comparison.tokens[6].margin = 1.5;
  finish_noise(inject);

  run::ModeReplay forced = noisy_mode(format::ReplayMode::kForced);
  forced.own_step_kv = true;
  set_mismatch(forced.comparison.tokens[4], TokenVerdict::kNoise, 0.25);
  forced.comparison.tokens[4].gap_is_bound = true;
  forced.comparison.tokens[4].live_gap = 0.3125;
  set_mismatch(forced.comparison.tokens[6], TokenVerdict::kHardFlip, 1.5);
  forced.comparison.tokens[3].margin = 0.0625;
  forced.comparison.tokens[5].margin = 0.1875;
  finish_noise(forced);

  input.timing = inject.timing;
  input.replay->modes = {inject, forced};
  return input;
}

const std::string& hostile_text() {
  static constexpr char kBytes[] =
      "\x1b[31m<script>alert(1)</script>]]>|a|`b`\n\n# x @user "
      "[l](http://evil.example) www.evil.example #12 &amp; "
      "\xE2\x80\xAE\xEF\xBF\xBF\xFF\xC0\x80\0*end*";
  static const std::string kText(kBytes, sizeof(kBytes) - 1);
  return kText;
}

run::InputResult hostile_input() {
  run::InputResult input = replayed_input();
  input.prompt_text = hostile_text();
  input.replay->recording = "ref/" + hostile_text();
  input.replay->recorded_device = hostile_text();
  run::ModeReplay& mode = input.replay->modes.front();
  for (run::TokenText& text : mode.texts) text.recorded = hostile_text();
  mode.texts[2].predicted = hostile_text();
  mode.comparison.tokens[2].verdict = TokenVerdict::kHardFlip;
  mode.own_text = hostile_text();
  return input;
}

run::RecordingInfo recording_info() {
  run::RecordingInfo info;
  info.path = "batch1_input0.kvc";
  info.bytes = 1'234'567;
  info.complete = true;
  info.uuid = "00000000-0000-4000-8000-000000000000";
  info.model_id = "Org/Tiny";
  info.model_slug = "org_tiny";
  info.model_dtype = "bfloat16";
  info.model_sha256 = "abcd";
  info.config_sha256 = "cdef";
  info.graph_sha256 = "efab";
  info.device_label = "CPU";
  info.device_name = "Some CPU";
  info.save_mode = "delta";
  info.kv_dtype = "bfloat16";
  info.num_layers = 30;
  info.kv_heads = "3";
  info.key_dim = "64";
  info.value_dim = "64";
  info.batch_size = 1;
  info.row = 0;
  info.rows = 1;
  info.input_index = 0;
  info.prompt_length = 5;
  info.num_tokens = 9;
  info.num_steps = 8;
  info.top_k = 32;
  info.logits_sample = 64;
  info.vocab_size = 49152;
  info.created_utc = "2026-01-02T03:04:05Z";
  info.kvtool_version = "0.1.0";
  info.torch_version = "2.13.0";
  info.numerics = {.policy = {.entries = {{"model.dtype", "bfloat16"}},
                              .digest = "0123456789abcdef0123456789abcdef"},
                   .platform = {.missing = {"CPU", "torch"}}};
  info.provenance = {{"cpu isa", "AVX512"}, {"threads", "2"}};
  info.prompt_text = "Hello";
  info.generated_text = "Hi there";
  info.stop_reason = "eos";
  return info;
}

analysis::Gate sample_gate() {
  return {"sample",
          "Made for tests.",
          {},
          {{"inject.tokens.match_rate", 0.7, std::nullopt},
           {"inject.kv.key.relative_l2", std::nullopt, 0.001},
           {"*.tokens.hard_flips", std::nullopt, 0.0},
           {"forced.kl.p99", std::nullopt, 0.5}}};
}

analysis::ProvenanceDifference sample_difference() {
  return {"device.provenance.torch_version",
          "torch",
          "2.13.0",
          "2.14.1",
          "kernels of another version may round differently",
          analysis::ProvenancePart::kPlatform};
}

analysis::NumericsAgreement sample_agreement() {
  return {.policy = {.equal = true, .recorded = "abcd", .live = "abcd"},
          .platform = {.live = "ef", .differing = {"torch"}, .missing = {"CPU"}}};
}

run::SelftestResult selftest_result() {
  run::SelftestResult result;
  result.model_slug = "tiny";
  result.gate = "16bit-cross";
  result.reference = "recorded before the test";
  result.inputs = 2;
  result.steps = 30;
  result.measures_noise = true;
  result.control_passed = true;
  result.seconds = 12.25;
  run::FaultResult caught;
  caught.name = "scaled-values";
  caught.description = "V x 1.01 in layer 1";
  caught.caught = true;
  analysis::RuleResult rule;
  rule.rule = {"inject.kv.value.scale_error", std::nullopt, 0.001};
  rule.figure = rule.rule.figure;
  rule.measured = 0.01;
  rule.matched = rule.failed = 1;
  caught.failed_rules = {rule};
  caught.departure = "V of layer 1 as a whole";
  caught.located = true;
  caught.smallest_caught = 0.002;
  caught.largest_missed = 0.001;
  caught.strength = 0.01;
  caught.strength_unit = "V x (1 + s)";
  run::FaultResult missed;
  missed.name = "stale-row";
  missed.description = "the row of step 3 repeats that of step 2";
  run::FaultResult skipped;
  skipped.name = "swapped-heads";
  skipped.description = "KV heads 0 and 1 swapped";
  skipped.skipped = "the model has one KV head";
  result.faults = {caught, missed, skipped};
  return result;
}

run::CalibrationResult calibration_result() {
  run::CalibrationResult result;
  result.model_slug = "tiny";
  result.model_id = "Org/Tiny";
  result.reference = "CPU, AVX-512, 2 threads";
  result.target = "gates/tiny.json";
  result.safety_factor = 4.0;
  result.measures_noise = true;
  result.runs = {{"avx2, 1 thread", "avx2", 1, "recorded", 3.5, {{"inject.kl.p99", 0.002}}}};
  result.rules = {{{"inject.kl.p99", std::nullopt, 0.008}, 0.002, "avx2, 1 thread"}};
  result.notes = {"One thread count only: the machine has one core."};
  return result;
}

run::BenchResult bench_result() {
  run::BenchResult result;
  result.repeats = 3;
  run::RecordingBench recording;
  recording.path = "a.kvc";
  recording.bytes = 2'000'000;
  recording.kv_bytes = 1'900'000;
  recording.save_mode = "prefill_only";
  recording.steps = 7;
  recording.figures = {{"open", "open", "ms", {0.25, 0.5, 0.125}},
                       {"verify", "verify", "GB/s", {4.0, 2.0, 3.0}}};
  recording.left_out = {{"rebuild", "a recording of mode prefill_only holds no K/V of steps"}};
  result.recordings = {recording};
  return result;
}

run::Verdict verdict_of(const std::vector<run::InputResult>& inputs, const analysis::Gate& gate,
                        bool gate_chosen) {
  analysis::RunSummaryBuilder builder;
  for (const run::InputResult& input : inputs) {
    bool first = true;
    for (const run::ModeReplay& mode : input.replay->modes) {
      builder.add(input.name(), input.prompt_length, mode.mode, mode.comparison, first);
      first = false;
    }
  }
  run::Verdict verdict;
  const run::ModeReplay& first_mode = inputs.front().replay->modes.front();
  verdict.flip_bounds = first_mode.comparison.bounds;
  verdict.measures_noise = !std::isnan(first_mode.comparison.tokens.front().noise_bound);
  verdict.model_slug = inputs.front().model_slug;
  verdict.model_id = "Org/Tiny";
  verdict.dtype = "bfloat16";
  verdict.reference_device = "NVIDIA_H200";
  verdict.device = "CPU";
  verdict.run = builder.build();
  verdict.figures = analysis::figures_of(verdict.run);
  verdict.gate = analysis::evaluate(gate, verdict.figures);
  verdict.gate_description = gate.description;
  verdict.gate_chosen = gate_chosen;
  verdict.finding = analysis::find_cause(verdict.run, verdict.gate);
  verdict.finding_text = "What the pattern means.";
  return verdict;
}

run::Summary summary_of(const std::vector<run::InputResult>& inputs) {
  run::Summary summary;
  summary.inputs = inputs.size();
  for (const run::InputResult& input : inputs) {
    summary.steps += input.timing.steps;
    summary.prefill_seconds += input.timing.prefill_seconds;
    summary.decode_seconds += input.timing.decode_seconds;
    if (!input.saved) continue;
    ++summary.saved_recordings;
    summary.saved_bytes += input.saved->bytes;
    summary.saved_directory = "out/CPU";
  }
  summary.next_command = "kvtool replay --from out/CPU";
  return summary;
}

void report_run(Reporter& reporter, const std::vector<run::InputResult>& inputs,
                const run::Summary& summary) {
  reporter.begin({"replay", "0.1.0", "2026-01-02T03:04:05Z"});
  reporter.device({"CPU", "cpu", "Some CPU", "2.13.0", R"({"threads": 2})"});
  reporter.model({"Org/Tiny", "tiny", "models/tiny.pt", "Llama", "bfloat16", 30, "abcd"});
  for (const run::InputResult& input : inputs) reporter.input(input);
  reporter.finish(summary);
}

void report_all(Reporter& reporter, const run::InputResult& input) {
  run::Summary summary = summary_of({input});
  if (input.replay) summary.verdicts = {verdict_of({input}, analysis::default_gate({}), false)};
  report_run(reporter, {input}, summary);
}

}  // namespace kvtool::report
