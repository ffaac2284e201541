// What a command found out, as plain data: commands fill these structs,
// reporters show them. Text fields hold raw token bytes unless they say
// otherwise; making them printable is the reporter's task.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "kvtool/analysis/comparison.h"
#include "kvtool/format/recording.h"

namespace kvtool::report {

// Raised with every incompatible change of the JSON document.
inline constexpr int kSchemaVersion = 1;

struct RunDescription {
  std::string command;  // "replay"
  std::string kvtool_version;
  std::string created_utc;
};

struct DeviceDescription {
  std::string label;
  std::string type;
  std::string name;
  std::string torch_version;
  std::string provenance_json;  // a JSON object
};

struct ModelDescription {
  std::string id;
  std::string slug;
  std::string path;
  std::string architecture;
  std::string dtype;
  std::uint64_t num_layers = 0;
  std::string weights_sha256;
};

// Seconds of the batch that the row was part of, steps of the row itself.
struct RowTiming {
  double prefill_seconds = 0.0;
  double decode_seconds = 0.0;
  std::uint64_t steps = 0;
};
// Decode steps per second; NaN when there was no step or no time.
[[nodiscard]] double tokens_per_second(std::uint64_t steps, double decode_seconds);

struct Generation {
  std::vector<std::int32_t> tokens;
  std::string text;
  std::string stop_reason;
};

struct SavedRecording {
  std::string path;
  std::uint64_t bytes = 0;
  std::string save_mode;
};

// Bytes of one compared token; `predicted` is empty where both are the same.
struct TokenText {
  std::string recorded;
  std::string predicted;
};

struct Replay {
  std::string recording;  // path
  std::string recorded_device;
  std::string save_mode;
  std::string truncation;  // empty when the recording is complete
  bool reference_has_prefill_kv = true;
  bool own_step_kv = false;  // the reference holds no K/V for its steps
  analysis::RowComparison comparison;
  std::vector<TokenText> texts;  // one per comparison.tokens
};
// A hard flip, or NaN or Inf anywhere.
[[nodiscard]] bool comparison_failed(const analysis::RowComparison& comparison);

// One input of one model and batch size.
struct InputResult {
  std::string model_slug;
  std::uint64_t batch_size = 0;  // nominal
  std::uint64_t rows = 0;        // of the batch that ran
  std::uint64_t row = 0;
  std::uint64_t input_index = 0;
  std::string prompt_text;
  std::uint64_t prompt_length = 0;
  RowTiming timing;
  std::optional<Generation> generation;
  std::optional<Replay> replay;
  std::optional<SavedRecording> saved;
};

// Over all inputs of a run. Steps and matches count what steps predicted;
// token 0, which the prefill predicts, is counted apart.
struct Summary {
  std::uint64_t inputs = 0;
  std::uint64_t steps = 0;
  double prefill_seconds = 0.0;
  double decode_seconds = 0.0;  // sum over batches
  double wall_seconds = 0.0;    // 0: not measured

  struct Replayed {
    std::uint64_t matches = 0;
    std::uint64_t prefill_matches = 0;
    std::uint64_t inputs_matching = 0;
    std::uint64_t ties = 0;
    std::uint64_t near_ties = 0;
    std::uint64_t hard_flips = 0;
    std::uint64_t nonfinite_inputs = 0;
    std::uint64_t inputs_bitwise_equal = 0;
    std::uint64_t inputs_logits_equal = 0;
    analysis::KvDifference prefill_kv;
    analysis::KvDifference step_kv;
    struct Divergence {
      std::string model_slug;
      std::uint64_t batch_size = 0;
      std::uint64_t input_index = 0;
      std::uint64_t token_index = 0;
      analysis::TokenVerdict verdict = analysis::TokenVerdict::kMatch;
    };
    std::vector<Divergence> first_divergences;
    bool failed = false;
  };
  std::optional<Replayed> replayed;

  std::uint64_t saved_recordings = 0;
  std::uint64_t saved_bytes = 0;
  std::string saved_directory;
  std::string next_command;  // worth trying after this one; may be empty
};

// Adds inputs up as they arrive.
class SummaryBuilder {
 public:
  void add_input(const InputResult& input);
  // Once per batch that ran.
  void add_batch_seconds(double prefill_seconds, double decode_seconds);
  [[nodiscard]] Summary& summary() { return summary_; }
  [[nodiscard]] const Summary& summary() const { return summary_; }

 private:
  Summary summary_;
};

// One recording as `kvtool info` shows it.
struct RecordingInfo {
  std::string path;
  std::uint64_t bytes = 0;
  std::string error;  // not empty: unreadable, nothing below is set
  bool partial_name = false;
  bool complete = false;
  std::string truncation;
  std::string uuid;
  std::string model_id;
  std::string model_slug;
  std::string model_dtype;
  std::string model_sha256;
  std::string device_label;
  std::string device_name;
  std::string save_mode;
  std::string kv_dtype;  // "bfloat16", "mixed" when layers differ
  std::uint64_t num_layers = 0;
  std::string kv_heads;  // "3", or "1-8" when layers differ
  std::string key_dim;
  std::string value_dim;
  std::optional<std::uint64_t> batch_size;
  std::optional<std::uint64_t> row;
  std::optional<std::uint64_t> rows;
  std::optional<std::uint64_t> input_index;
  std::uint64_t prompt_length = 0;
  std::uint64_t num_tokens = 0;
  std::uint64_t num_steps = 0;
  std::uint64_t top_k = 0;
  std::uint64_t vocab_size = 0;
  std::string created_utc;
  std::string kvtool_version;
  std::string torch_version;
  std::string replay_of;  // path of the reference when this is a replay
  std::string prompt_text;
  std::optional<std::string> generated_text;
  std::string stop_reason;
};

struct InfoResult {
  bool directory = false;  // one line per recording and totals
  std::vector<RecordingInfo> recordings;
};

struct DumpResult {
  std::string recording;
  std::int64_t step = 0;
  std::uint64_t positions = 0;
  std::string target;
  std::uint64_t bytes = 0;
};

}  // namespace kvtool::report
