// What a run found out, as plain data: runs fill these structs, reporters show them. Text fields
// hold raw token bytes unless they say otherwise; making them printable is the reporter's task.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "kvtool/analysis/gate.h"
#include "kvtool/analysis/numerics.h"
#include "kvtool/analysis/provenance.h"
#include "kvtool/analysis/row_comparison.h"
#include "kvtool/analysis/summary.h"
#include "kvtool/cache/cache_use.h"
#include "kvtool/format/meta.h"
#include "kvtool/format/recording.h"
#include "kvtool/format/recover.h"
#include "kvtool/format/replay_mode.h"
#include "kvtool/format/verify.h"
#include "kvtool/run/replay_shape.h"

namespace kvtool::run {

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
  // Empty for a model that was exported before there were any.
  std::string config_sha256 = {};
  std::string graph_sha256 = {};
};

// Seconds of the batch that the row was part of, steps of the row itself.
struct RowTiming {
  double prefill_seconds = 0.0;
  double decode_seconds = 0.0;
  std::uint64_t steps = 0;
  // Part of decode_seconds inside of attention; known on a CPU, of a generation.
  std::optional<double> attention_seconds = std::nullopt;
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

// One input in one replay mode.
struct ModeReplay {
  format::ReplayMode mode = format::ReplayMode::kInject;
  analysis::RowComparison comparison;
  std::vector<TokenText> texts;  // one per comparison.tokens
  RowTiming timing;
  bool own_step_kv = false;  // inject without K/V in the reference for its steps
  // What the device wrote after its context parted from the reference's (free).
  std::string own_text;
};

struct Replay {
  std::string recording;  // path of the reference
  std::string live;       // path of the recording compared with it (diff); empty: this device
  std::string recorded_device;
  // Specs of the caches that made the reference and what is compared with it.
  std::string reference_cache = format::kUnnamedCache;
  std::string cache = format::kUnnamedCache;
  std::string save_mode;   // of the reference
  std::string truncation;  // empty when the reference is complete
  bool reference_has_prefill_kv = true;
  bool different_weights = false;
  bool different_config = false;
  bool parallel = false;          // all steps in one pass instead of one by one
  std::vector<ModeReplay> modes;  // at least one, in the order they ran
  std::vector<analysis::ProvenanceDifference> provenance;
  std::optional<analysis::NumericsAgreement> numerics = {};  // policy and platform of both sides
};

// One input of one model and batch size.
struct InputResult {
  std::string model_slug;
  std::uint64_t batch_size = 0;  // nominal
  std::uint64_t rows = 0;        // of the batch that ran
  std::uint64_t row = 0;
  std::uint64_t input_index = 0;
  std::string prompt_text;
  std::uint64_t prompt_length = 0;
  RowTiming timing;  // of the first mode when there are several
  std::optional<Generation> generation;
  std::optional<Replay> replay;
  std::optional<SavedRecording> saved;

  [[nodiscard]] analysis::InputName name() const { return {batch_size, input_index}; }
};

// All inputs of one model against one reference device, each with one cache.
struct Verdict {
  std::string model_slug;
  std::string model_id;
  std::string dtype;                                    // of the model under test
  std::string reference_device;                         // label
  std::string device;                                   // label
  std::string reference_cache = format::kUnnamedCache;  // as of Replay
  std::string cache = format::kUnnamedCache;
  bool different_weights = false;
  bool different_config = false;
  bool parallel = false;  // a parallel replay judged, of one input at least
  analysis::RunSummary run;
  analysis::Figures figures;
  analysis::GateResult gate;
  std::string gate_description;
  analysis::FlipBounds flip_bounds;
  // The recordings hold what shows the noise of logits; else mismatches are judged by ulp, as
  // recordings of older versions are.
  bool measures_noise = false;
  bool gate_chosen = false;  // false: the default gate, nobody asked for one
  analysis::Finding finding = analysis::Finding::kReproducible;
  std::string finding_text;
  // Over all inputs, each once (ProvenanceSummary).
  std::vector<analysis::ProvenanceDifference> provenance;
  std::optional<analysis::NumericsAgreement> numerics;  // of all inputs together
};

// A cache that ran, and what the batch that took most of it took.
struct UsedCache {
  std::string spec;
  cache::CacheUse use;
};

// Over all inputs of a run.
struct Summary {
  std::uint64_t inputs = 0;
  std::uint64_t steps = 0;  // decode steps that ran, over modes
  double prefill_seconds = 0.0;
  double decode_seconds = 0.0;    // sum over batches and modes
  double wall_seconds = 0.0;      // 0: not measured
  std::vector<Verdict> verdicts;  // empty unless something was compared
  // Recordings of the reference that had no partner (diff): not compared is not passed.
  std::vector<std::string> missing;
  std::uint64_t compared_bytes = 0;  // K/V of both sides; diff only

  std::vector<UsedCache> caches;  // in the order in which they ran first

  std::uint64_t saved_recordings = 0;
  std::uint64_t saved_bytes = 0;
  std::string saved_directory;
  std::string next_command;  // worth trying after this one; may be empty

  // Some gate failed, or something was not compared at all.
  [[nodiscard]] bool failed() const;
};

// One recording as `kvtool info` shows it.
struct RecordingInfo {
  std::string path;
  std::uint64_t bytes = 0;                      // on disk
  std::string error;                            // not empty: unreadable, nothing below is set
  std::optional<std::uint64_t> unpacked_bytes;  // only of a packed one
  bool partial_name = false;
  bool complete = false;
  std::string truncation;
  std::string uuid;
  std::string model_id;
  std::string model_slug;
  std::string model_dtype;
  std::string model_sha256;
  std::string config_sha256;  // empty: recorded before there were any
  std::string graph_sha256;   // likewise
  std::string device_label;
  std::string device_name;
  std::string save_mode;
  std::string kv_cache;  // spec of the cache that made the rows
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
  std::uint64_t logits_sample = 0;
  std::uint64_t vocab_size = 0;
  std::string created_utc;
  std::string kvtool_version;
  std::string torch_version;
  std::string replay_of;        // path of the reference when this is a replay
  std::string replay_mode;      // "inject", ...; empty unless it is a replay
  analysis::Numerics numerics;  // what was computed besides the model
  // What else META says of where it comes from, ready to show: name, value.
  std::vector<std::pair<std::string, std::string>> provenance;
  std::string prompt_text;
  std::optional<std::string> generated_text;
  std::string stop_reason;
};

struct InfoResult {
  bool directory = false;  // one line per recording and totals
  std::vector<RecordingInfo> recordings;

  [[nodiscard]] bool readable() const;  // all of them
};

struct DumpResult {
  std::string recording;
  std::int64_t step = 0;
  std::uint64_t positions = 0;
  std::string target;
  std::uint64_t bytes = 0;
};

// What `kvtool verify` found in all files together.
struct VerifyTotals {
  std::uint64_t files = 0;
  std::uint64_t truncated = 0;
  std::uint64_t damaged = 0;
  std::uint64_t unreadable = 0;
  std::uint64_t bytes = 0;
  double seconds = 0.0;
  std::string recoverable;  // path of the first file that `kvtool recover` may help; may be empty

  [[nodiscard]] bool all_intact() const { return truncated + damaged + unreadable == 0; }
};

struct RecoveryResult {
  std::string input;
  std::string output;
  format::RecoverResult result;
};

// One recording of `kvtool pack` or `unpack`.
struct PackedRecording {
  std::string path;
  std::string note;   // not empty: left as it is, and why
  std::string error;  // not empty: failed; nothing below is set
  std::uint64_t original_bytes = 0;
  std::uint64_t packed_bytes = 0;
  double seconds = 0.0;
};

struct PackingResult {
  bool unpacked = false;  // false: packed
  std::vector<PackedRecording> recordings;
  unsigned threads = 1;
  double wall_seconds = 0.0;
};

// One fault of a selftest.
struct FaultResult {
  std::string name;         // "scaled-values"
  std::string description;  // "V x 1.01 in layer 15"
  std::string skipped;      // not empty: why this model cannot have this fault
  bool caught = false;
  std::vector<analysis::RuleResult> failed_rules;  // what caught it, worst excess first
  std::string departure;  // where the comparison says the error begins; may be empty
  bool located = false;   // the departure names the fault's layer
  // Smallest strength still caught / largest that passed, for scalable faults.
  std::optional<double> smallest_caught;
  std::optional<double> largest_missed;
  double strength = 1.0;      // of the run that `caught` speaks of
  std::string strength_unit;  // how to read a strength: "V x (1 + s)"
};

struct SelftestResult {
  std::string model_slug;
  std::string gate;
  std::string reference;                      // where the reference came from, in words
  std::string cache = format::kUnnamedCache;  // spec of the one that replayed it; several: a list
  ReplayShape shape = ReplayShape::kRecorded;
  std::uint64_t inputs = 0;
  std::uint64_t steps = 0;
  bool measures_noise = false;  // as of a Verdict
  bool control_passed = false;  // the replay without a fault passes the gate
  std::vector<analysis::RuleResult> control_failures;
  std::vector<FaultResult> faults;
  double seconds = 0.0;

  // The control passes and every fault that could be injected is caught.
  [[nodiscard]] bool passed() const;
};

struct CalibrationRun {
  std::string name;  // "avx2, 1 thread, recorded batches"
  std::string cpu_isa;
  int threads = 0;  // 0: torch's default
  std::string batch;
  double seconds = 0.0;
  analysis::Figures figures;
};

struct CalibratedRule {
  analysis::GateRule rule;
  double noise = 0.0;  // the worst of all runs
  std::string run;     // in which it was seen
};

struct CalibrationResult {
  std::string model_slug;
  std::string model_id;
  std::string reference;
  std::string cache = format::kUnnamedCache;  // spec of the one that replayed it
  std::string target;                         // the gate file
  double safety_factor = 0.0;
  bool measures_noise = false;  // as of a Verdict, of all runs
  std::vector<CalibrationRun> runs;
  std::vector<CalibratedRule> rules;
  std::vector<std::string> notes;  // what was not varied, and why
};

// One figure of a measurement, with one value for each repeat (at least one).
struct BenchFigure {
  std::string measurement;  // "random"
  std::string title;        // "read any step, p99"
  std::string unit;         // "us"
  std::vector<double> values;

  [[nodiscard]] double median() const;
  [[nodiscard]] double least() const;
  [[nodiscard]] double most() const;
};

struct LeftOutMeasurement {
  std::string measurement;
  std::string reason;
};

struct RecordingBench {
  std::string path;
  std::uint64_t bytes = 0;
  std::uint64_t kv_bytes = 0;  // of all cached positions
  std::string save_mode;
  std::uint64_t steps = 0;
  std::vector<BenchFigure> figures;
  std::vector<LeftOutMeasurement> left_out;
};

// A recording that was written to be measured.
struct MadeRecording {
  std::string path;
  std::uint64_t bytes = 0;
};

struct BenchResult {
  MadeRecording made;  // its path is empty when recordings were measured
  std::uint64_t repeats = 0;
  std::vector<RecordingBench> recordings;
};

}  // namespace kvtool::run
