// What the commands see of the engine: no torch type, so that the binary links
// no torch. The engine is a shared library that engine/loader.h opens.
//
// Threading: an Engine, its models and their calls belong to one thread. Sinks
// are called from a background thread while a call runs and are quiet once it
// has returned or thrown. Errors are kvtool::Error: kMisuse for a call that breaks its
// contract, kInternal for what torch or kvtool finds wrong in itself.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kvtool/cache/cache_spec.h"
#include "kvtool/cache/cache_use.h"
#include "kvtool/format/recording.h"
#include "kvtool/format/replay_mode.h"
#include "kvtool/format/row.h"

namespace kvtool::engine {

// Raised with every incompatible change of this header; checked by the loader.
inline constexpr int kEngineAbi = 13;

struct EngineOptions {
  std::string device = "auto";  // "auto" (CUDA when there is one), "cpu", "cuda", "cuda:N"
  int threads = 0;              // CPU threads of one operation; 0: torch's default
};

struct DeviceInfo {
  std::string type;  // "cpu" or "cuda"
  int index = 0;
  std::string label;  // "CPU", "NVIDIA_H200"
  std::string name;   // CPU model or GPU name
  // Provenance as a JSON object: torch_version, cpu_model, cpu_isa, threads, environment,
  // driver_version, deterministic, tf32, ...
  std::string provenance_json;
};

struct ModelInfo {
  std::string path;
  std::string model_id;
  std::string slug;
  std::string architecture;
  std::string dtype;  // torch's name: "bfloat16"
  DType logits_dtype = DType::kFloat32;
  std::uint32_t vocab_size = 0;
  std::uint64_t max_positions = 0;
  std::vector<std::int32_t> eos_token_ids;
  format::Geometry geometry;
  format::Sha256 weights_sha256{};
  std::string metadata_json;  // kvtool.json of the exported file, whole
};

// One line of a batch.
struct Input {
  std::vector<std::int32_t> token_ids;  // not empty
};

struct GenerateOptions {
  std::uint64_t max_new_tokens = 128;  // at least 1
  bool ignore_eos = false;
  std::uint32_t top_k = 32;  // recorded entries; capped by the vocabulary
  // Logits that the sinks get beside the top-k, at format::sampled_ids(); capped likewise.
  std::uint32_t logits_sample = 64;
  cache::CacheSpec kv_cache = {};
  // Without a cache: every token comes from a pass over the prompt and all tokens before it, and
  // nothing is kept for the next one. kv_cache is without effect, cache_use of the result is empty,
  // and a sink that needs K/V is an Error kMisuse.
  bool recompute = false;
  // Counts what the run takes of memory (GenerateResult::memory), which costs it some time.
  bool count_memory = false;
};

// Memory of the device over a run.
struct MemoryUse {
  std::string source;              // what the next two are: "resident set of the process"
  std::uint64_t before_bytes = 0;  // the model is in it
  std::uint64_t peak_bytes = 0;
  std::uint64_t tensor_bytes = 0;  // the most that tensors of the run took at a time
  // Tensors of exactly the size of K or V of a layer that attention allocated in steps, over the
  // K and V of all layers and steps: 1 where a cache is allocated anew in every step.
  double kv_copies_per_step = 0.0;
};

struct GeneratedRow {
  std::vector<std::int32_t> tokens;  // token 0, then one per step; ends with EOS if it was met
  format::StopReason stop_reason = format::StopReason::kMaxNewTokens;
};

struct BatchTiming {
  double prefill_seconds = 0.0;
  double decode_seconds = 0.0;
  std::uint64_t decode_steps = 0;  // of the batch: the most of any row
  // Part of decode_seconds inside of attention, the cache included; only where the
  // host waits for each operation: on a CPU, in generate().
  std::optional<double> attention_seconds = std::nullopt;
};

struct GenerateResult {
  std::vector<GeneratedRow> rows;
  BatchTiming timing;
  cache::CacheUse cache_use;
  std::optional<MemoryUse> memory = std::nullopt;  // with count_memory
};

// Called on the calling thread after the prefill (0) and after every step; an
// exception it throws stops the run (that is how Ctrl-C is handled).
using Progress = std::function<void(std::uint64_t steps_done, std::uint64_t steps_total)>;

struct ReplayRow {
  const format::RowSource* reference = nullptr;  // not owned
};

// The shape in which the reference ran. Kernels depend on it, so a batch is
// replayed in the shape in which it was recorded.
struct ReplayBatch {
  std::vector<ReplayRow> rows;
  // Prompt positions of the batch including left padding; at least the longest prompt.
  std::uint64_t padded_length = 0;
  // Positions of the cache buffer; at least padded_length + the most steps.
  std::uint64_t cache_capacity = 0;
};

// Faults that `kvtool selftest` puts into a replay: each makes a wrong row out
// of the right one, and the cache stores right + strength * (wrong - right). Rows
// of prompts stay right. Step by step and in parallel the wrong rows are the same.
enum class FaultKind : std::uint8_t {
  kScaledValues,      // wrong: V * 2, so strength 0.01 stores V * 1.01
  kRotatedKeys,       // wrong: the keys of the next position (RoPE one position off)
  kSwappedHeads,      // wrong: K and V of KV heads 0 and 1 swapped; needs two KV heads
  kStaleRow,          // wrong: K and V of the slot before, at `step` only
  kUnscaledInt8Keys,  // wrong: K as 8-bit integers whose scale was lost
  kNonfinite,         // one NaN in V of the batch's first row, at `step` only; without strength
};

struct Fault {
  FaultKind kind = FaultKind::kScaledValues;
  std::uint32_t layer = 0;
  std::uint64_t step = 0;
  double strength = 1.0;  // above 0, at most 1
};

struct ReplayOptions {
  format::ReplayMode mode = format::ReplayMode::kInject;
  // Accepts recordings of other weights, K/V dtypes and logits dtypes; layers,
  // heads, dims and vocabulary must agree always.
  bool allow_different_weights = false;
  std::optional<Fault> fault = std::nullopt;
  // All steps of a row in one forward pass and several rows together, in the
  // modes inject and forced: each step sees what it would see step by step, but
  // other kernels compute it. padded_length and cache_capacity of the batch and,
  // but for a fault of its first row, the order of the rows do not matter.
  bool parallel = false;
  // Of a parallel replay, beside the model: activations, logits and the K/V of the
  // rows that share a pass. An estimate; one row is never refused.
  std::uint64_t parallel_memory_bytes = std::uint64_t{1} << 30;
  // Of the device under test; reference K/V are kept in it as its own rows are.
  cache::CacheSpec kv_cache = {};
  // Fills ReplayResult::attention_errors, which takes a contiguous cache beside the other one and
  // attends twice. Error kMisuse in inject mode, in a parallel replay and with a fault.
  bool measure_attention = false;
};

// Of the steps of one layer, all inputs and heads together: sums of squares of what attention gave
// under the cache minus what it gives over all keys as the model made them, for the same queries;
// and of the latter.
struct AttentionError {
  double difference_squares = 0.0;
  double exact_squares = 0.0;
};

struct ReplayResult {
  BatchTiming timing;
  // Rows whose steps ran on the device's own K/V after the prompt: all of them
  // in forced and free mode, in inject mode those whose reference holds none.
  std::vector<bool> own_step_kv;
  // In a parallel replay of the pass whose rows took most; rows and keys of all passes.
  cache::CacheUse cache_use = {};
  std::vector<AttentionError> attention_errors = {};  // of each layer, with measure_attention
};

// A text whose tokens are given: they are scored, not chosen.
struct ScoreInput {
  std::vector<std::int32_t> token_ids;  // longer than the prompt
  std::uint64_t prompt_length = 1;      // its first tokens, of one prompt pass; at least 1
};

struct ScoreOptions {
  cache::CacheSpec kv_cache = {};
};

struct TokenScore {
  double log_probability = 0.0;  // natural; NaN where the logits have no finite choice
  bool is_greedy = false;        // it is what generate() would have chosen
};

struct ScoredText {
  std::vector<TokenScore> tokens;  // of each token after the prompt
};

struct ScoreResult {
  std::vector<ScoredText> texts;
  BatchTiming timing;
  cache::CacheUse cache_use;
};

class Model {
 public:
  virtual ~Model() = default;
  [[nodiscard]] virtual const ModelInfo& info() const = 0;
  // Text bytes of a token; one token need not be whole UTF-8. Empty for ids
  // without text. Lives as long as the model.
  [[nodiscard]] virtual std::string_view token_bytes(std::int32_t token) const = 0;

  // Greedy generation of a left-padded batch (padded to the longest prompt). The
  // cache holds longest prompt + max_new_tokens - 1 positions; Error kUsage when
  // that exceeds the model's positions. A row ends at its EOS; the batch keeps its
  // shape until the last row has ended. `sinks` is empty or holds one sink (or
  // null) per input.
  virtual GenerateResult generate(std::span<const Input> inputs, const GenerateOptions& options,
                                  std::span<format::RowSink* const> sinks,
                                  const Progress& progress) = 0;

  // What the model expects of each token of a text that it reads through a cache: the prompts in
  // one pass, padded on the left to the longest, then token after token as decoding does, each from
  // what the cache gives of those before it. The token itself is what is fed, not the choice; the
  // last token of the longest text is scored and not fed. A text that has ended keeps feeding its
  // last token. Log probabilities are of the float32 logit, gathered on the device, less the
  // float64 log-sum-exp. Error kUsage where the texts exceed the model's positions.
  virtual ScoreResult score(std::span<const ScoreInput> inputs, const ScoreOptions& options,
                            const Progress& progress) = 0;

  // The prompt is prefilled on this device; its K/V and every step's row go to
  // the sinks as the cache holds them, in this model's geometry.
  // inject: the reference's K/V then take their place, so that each step feeds
  // the recorded token on the reference's cache. forced: the recorded tokens on
  // the device's own cache. free: its own tokens as well, for as many steps as
  // the reference has. Rows may share a reference; what inject reads of it is read
  // once and handed to the sinks of its rows, too (RowSink::on_reference_step()).
  // Beside its statistics a row gets its logits at the reference's top_ids of the same token and
  // at the ids that the reference has sampled (StepStats::at_reference_top, sampled_logits).
  // In a parallel replay the timing has no prefill, and its decode_steps are those
  // of all rows; sinks of different rows may be called at the same time.
  virtual ReplayResult replay(const ReplayBatch& batch, const ReplayOptions& options,
                              std::span<format::RowSink* const> sinks,
                              const Progress& progress) = 0;
};

class Engine {
 public:
  virtual ~Engine() = default;
  [[nodiscard]] virtual const DeviceInfo& device() const = 0;
  [[nodiscard]] virtual std::string_view torch_version() const = 0;  // of the loaded torch
  // What the file at `path` says of itself, without its weights.
  [[nodiscard]] virtual ModelInfo read_model_info(const std::string& path) = 0;
  virtual std::unique_ptr<Model> load_model(const std::string& path) = 0;
};

}  // namespace kvtool::engine
