#include "sample_results.h"

namespace kvtool::report {

InputResult generated_input() {
  InputResult input;
  input.model_slug = "tiny";
  input.batch_size = 1;
  input.rows = 1;
  input.prompt_text = "Hello\nworld";
  input.prompt_length = 3;
  input.timing = {0.5, 2.0, 3};
  input.generation = Generation{{7, 8, 9, 10}, "one two\x1b[2J", "eos"};
  input.saved = SavedRecording{"out/CPU/tiny/batch1_input0.kvc", 2'500'000, "delta"};
  return input;
}

InputResult replayed_input() {
  InputResult input;
  input.model_slug = "tiny";
  input.batch_size = 4;
  input.rows = 4;
  input.row = 1;
  input.input_index = 5;
  input.prompt_text = "Hi";
  input.prompt_length = 2;
  input.timing = {0.25, 2.0, 4};
  Replay replay;
  replay.recording = "ref_cache/NVIDIA_H200/tiny/batch4_input5.kvc";
  replay.recorded_device = "NVIDIA_H200";
  replay.save_mode = "delta";
  for (std::uint64_t i = 0; i < 5; ++i) {
    analysis::TokenComparison token;
    token.index = i;
    token.recorded = token.predicted = static_cast<std::int32_t>(10 + i);
    token.logits_equal = i == 0;
    replay.comparison.tokens.push_back(token);
  }
  analysis::TokenComparison& tie = replay.comparison.tokens[2];
  tie.predicted = 40;
  tie.margin = 0.0625;
  tie.ulp = 0.125;
  tie.verdict = analysis::TokenVerdict::kTie;
  replay.comparison.prefill_kv.elements = 100;
  replay.comparison.step_kv.elements = 200;
  replay.comparison.step_kv.differing = 20;
  replay.comparison.step_kv.max_abs = 0.5;
  replay.comparison.step_kv.max_reference = 10.0;
  replay.comparison.step_kv.sum_squared_error = 0.01;
  replay.comparison.step_kv.sum_squared_reference = 100.0;
  replay.comparison.first_bit_difference = 1;
  // The euro sign is spread over tokens 0 and 1.
  replay.texts = {{"A\xE2\x82", ""}, {"\xAC", ""}, {" Paris", "\n"}, {" is", ""}, {".", ""}};
  input.replay = std::move(replay);
  return input;
}

RecordingInfo recording_info() {
  RecordingInfo info;
  info.path = "batch1_input0.kvc";
  info.bytes = 1'234'567;
  info.complete = true;
  info.uuid = "00000000-0000-4000-8000-000000000000";
  info.model_id = "Org/Tiny";
  info.model_slug = "org_tiny";
  info.model_dtype = "bfloat16";
  info.model_sha256 = "abcd";
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
  info.vocab_size = 49152;
  info.created_utc = "2026-01-02T03:04:05Z";
  info.kvtool_version = "0.1.0";
  info.torch_version = "2.13.0";
  info.prompt_text = "Hello";
  info.generated_text = "Hi there";
  info.stop_reason = "eos";
  return info;
}

void report_all(Reporter& reporter, const InputResult& input) {
  reporter.begin({"replay", "0.1.0", "2026-01-02T03:04:05Z"});
  reporter.device({"CPU", "cpu", "Some CPU", "2.13.0", R"({"threads": 2})"});
  reporter.model({"Org/Tiny", "tiny", "models/tiny.pt", "Llama", "bfloat16", 30, "abcd"});
  SummaryBuilder builder;
  builder.add_input(input);
  builder.add_batch_seconds(input.timing.prefill_seconds, input.timing.decode_seconds);
  reporter.input(input);
  if (input.saved) builder.summary().saved_directory = "out/CPU";
  builder.summary().next_command = "kvtool replay --from out/CPU";
  reporter.finish(builder.summary());
}

}  // namespace kvtool::report
