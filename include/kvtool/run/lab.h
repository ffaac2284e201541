// What a K/V cache policy costs a model: replays of the same recordings under one policy after the
// other, with quality, bytes and time in one table, beside what stands for nothing done (full), for
// rounding alone (noise) and for other ways to choose (mass, window, random). docs/lab.md says what
// every figure means.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kvtool/cache/cache_use.h"
#include "kvtool/run/lab_paging.h"
#include "kvtool/run/lab_parts.h"
#include "kvtool/run/lab_quality.h"
#include "kvtool/run/lab_texts.h"
#include "kvtool/run/observer.h"
#include "kvtool/run/request.h"
#include "kvtool/run/services.h"

namespace kvtool::run {

// Of policies that select and name no budget of their own, where nobody gives any.
inline constexpr std::string_view kLabBudgets[] = {"50%", "25%"};

struct LabRequest {
  // Recordings, model, device, replay_modes (empty: forced, and those that the gate needs) and gate
  // of it. `kv_cache` stays empty: policies are what is compared.
  Request run;
  std::vector<std::string> policies;  // specs (cache/cache_spec.h); none where parts are asked for
  std::vector<std::string> budgets;   // shares of an input: "25%", "12.5"
  bool controls = true;               // the rows of noise, mass, window and random
  bool sensitivity = false;           // LabResult::sensitivity
  bool breakeven = false;             // LabResult::breakeven
  bool attention = false;             // LabRow::attention_l2
  LabTextRequest texts;
  std::filesystem::path cpuinfo = "/proc/cpuinfo";
};

enum class LabRole : std::uint8_t {
  kFull,     // the cache that made the recordings
  kNoise,    // that cache again, where only rounding differs
  kControl,  // mass, window or random at the budget of a policy
  kPolicy,   // what was asked for
};
// "full", "noise", "control", "policy".
[[nodiscard]] std::string_view lab_role_name(LabRole role);

// Bytes of K/V, over all batches of the mode that is shown.
struct LabBytes {
  std::uint64_t positions = 0;      // that the caches hold at the end, of all inputs
  std::uint64_t logical_bytes = 0;  // as the model makes them
  std::uint64_t kept_bytes = 0;     // allocated: rows, scales, tables, work space
  std::uint64_t peak_bytes = 0;
  std::uint64_t moved_bytes = 0;  // between places
  bool emulated_link = false;
  // K/V that the keys of a step take as they are kept, mean over steps and inputs.
  std::optional<double> read_bytes_per_step;

  [[nodiscard]] double logical_per_token() const { return per_token(logical_bytes); }
  [[nodiscard]] double kept_per_token() const { return per_token(kept_bytes); }
  [[nodiscard]] double peak_per_token() const { return per_token(peak_bytes); }
  // kept_bytes / logical_bytes; NaN of nothing.
  [[nodiscard]] double kept_share() const;

 private:
  [[nodiscard]] double per_token(std::uint64_t bytes) const;
};

// What the cache says it did, over all batches.
struct LabApplied {
  std::uint64_t applied_rows = 0;
  std::uint64_t visible_keys = 0;
  std::uint64_t seen_keys = 0;
  std::uint64_t paged_out = 0;
  std::uint64_t read_back = 0;

  // seen_keys / visible_keys; nothing where the policy shows every key unasked.
  [[nodiscard]] std::optional<double> seen_share() const;
};

// Of replays, whose steps are compared while they run.
struct LabTime {
  std::vector<double> prefill_ms;  // of each batch
  std::vector<double> step_ms;     // of each step; or of each batch a mean, see `of_steps`
  // Of each of step_ms: positions that the step saw.
  std::vector<double> step_positions;
  bool of_steps = false;
  [[nodiscard]] bool measured() const { return !step_ms.empty(); }
};

struct LabRow {
  LabRole role = LabRole::kPolicy;
  std::string name;     // "quest:page=32 25%"
  std::string given;    // the policy as it was asked for; of a control its name
  std::string spec;     // that ran, whole; empty where nothing did
  std::string budget;   // "12.5%"; empty: the spec's own, or none
  std::string frame;    // rows of the same frame choose from the same pages with the same budget
  std::string note;     // of the noise: what differs
  std::string missing;  // not empty: it did not run, and why
  std::string idle;     // not empty: the policy did nothing, and why that is known
  std::vector<std::string> modes;  // that ran
  std::string mode;                // that the figures are of
  LabQuality quality;
  LabBytes bytes;
  LabApplied applied;
  LabTime time;
  // Relative L2 of what attention gives under the policy against attention over all keys as the
  // model made them, for the same queries: of each layer, steps and inputs pooled.
  std::vector<double> attention_l2_by_layer;
  std::optional<double> attention_l2;        // of all layers, their squares summed
  std::vector<std::vector<double>> step_kl;  // nats, of each input and step; NaN: not known
  LabPaging paging;
  // Mean KL over that of mass in the same frame, and minus it.
  std::optional<double> regret_ratio, regret_difference;
  std::string gate;
  bool gate_passed = false;
  std::string gate_failure;  // the worst rule

  [[nodiscard]] bool ran() const { return missing.empty(); }
  // It ran, and its policy acted: what stands in the row is of that policy.
  [[nodiscard]] bool counts() const { return ran() && idle.empty(); }
};

// One expectation that holds of every policy that does what it says.
struct LabCheck {
  std::string name;  // "full >= policy", "policy >= random", "larger budget >= smaller"
  std::string better;
  std::string worse;
  std::string text;  // both intervals
  bool passed = false;
};

struct LabResult {
  std::string model_slug;
  std::string model_id;
  std::string dtype;
  std::string from;
  std::string reference_cache;  // spec of the cache that made the recordings
  std::uint64_t inputs = 0;
  std::uint64_t steps = 0;     // of all inputs, in one mode
  std::uint64_t shortest = 0;  // positions of an input, its steps included
  std::uint64_t longest = 0;   // likewise
  std::vector<LabRow> rows;
  std::vector<LabCheck> checks;
  std::vector<LabPair> pairs;
  std::optional<LabSensitivity> sensitivity;  // where it was asked for
  std::vector<LabBreakeven> breakeven;        // of each policy that acted, where it was asked for
  std::vector<LabPerplexity> perplexities;    // of each context, where it was asked for
  std::vector<LabNeedles> needles;            // likewise
  std::vector<std::string> notes;

  [[nodiscard]] bool checks_passed() const;
  // The row that all are compared with; null where it did not run.
  [[nodiscard]] const LabRow* full() const;
};

// Tells `observer` device, model and the table. A policy that the engine refuses has a row that
// says why; its Error is thrown once the table has been told. Errors kUsage before anything runs
// for a wrong or repeated policy or budget. Returns the table.
LabResult run_lab(const LabRequest& request, const Services& services, Observer& observer);

}  // namespace kvtool::run
