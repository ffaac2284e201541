#include "idle_options.h"

#include <array>
#include <string>

#include "kvtool/base/error.h"

namespace kvtool::cli {
namespace {

// What a run must do for an option to matter.
enum class Needed {
  kSave,             // record
  kGeneration,       // not a replay
  kSavedGeneration,  // both
  kReplay,
};

struct OptionUse {
  const char* name;
  bool (*given)(const RunOptions& options);
  Needed needed;
};

constexpr std::array kUses = {
    OptionUse{"--max-new-tokens", [](const RunOptions& o) { return o.max_new_tokens.has_value(); },
              Needed::kGeneration},
    OptionUse{"--ignore-eos", [](const RunOptions& o) { return o.ignore_eos; },
              Needed::kGeneration},
    OptionUse{"--top-k", [](const RunOptions& o) { return o.top_k.has_value(); },
              Needed::kSavedGeneration},
    OptionUse{"--logits-sample", [](const RunOptions& o) { return o.logits_sample.has_value(); },
              Needed::kSavedGeneration},
    OptionUse{"--save-mode", [](const RunOptions& o) { return o.save_mode.has_value(); },
              Needed::kSave},
    OptionUse{"--out", [](const RunOptions& o) { return o.out.has_value(); }, Needed::kSave},
    OptionUse{"--force", [](const RunOptions& o) { return o.force; }, Needed::kSave},
    OptionUse{"--resume", [](const RunOptions& o) { return o.resume; }, Needed::kSave},
    OptionUse{"--fsync", [](const RunOptions& o) { return o.fsync; }, Needed::kSave},
    OptionUse{"--fsync-every", [](const RunOptions& o) { return o.fsync_every.has_value(); },
              Needed::kSave},
    OptionUse{"--from", [](const RunOptions& o) { return o.from.has_value(); }, Needed::kReplay},
    OptionUse{"--ref-dir", [](const RunOptions& o) { return o.ref_dir.has_value(); },
              Needed::kReplay},
    OptionUse{"--from-batch-size",
              [](const RunOptions& o) { return o.from_batch_size.has_value(); }, Needed::kReplay},
    OptionUse{"--batch", [](const RunOptions& o) { return o.batch.has_value(); }, Needed::kReplay},
    OptionUse{"--parallel", [](const RunOptions& o) { return o.parallel; }, Needed::kReplay},
    OptionUse{"--parallel-memory",
              [](const RunOptions& o) { return o.parallel_memory_mib.has_value(); },
              Needed::kReplay},
    OptionUse{"--mode", [](const RunOptions& o) { return !o.modes.empty(); }, Needed::kReplay},
    OptionUse{"--gate", [](const RunOptions& o) { return o.gate.has_value(); }, Needed::kReplay},
    OptionUse{"--allow-different-weights",
              [](const RunOptions& o) { return o.allow_different_weights; }, Needed::kReplay},
};

// Empty where the option matters.
std::string why_idle(Needed needed, const Purpose& purpose) {
  const bool as_configured = purpose.action == Action::kAsConfigured;
  if (needed == Needed::kReplay) {
    if (purpose.replay) return {};
    return "is for a replay, and this run replays nothing: set kv_cache.load in the configuration";
  }
  if (needed != Needed::kSave && purpose.replay) {
    return "does nothing in a replay, which computes the tokens and logits that its reference "
           "holds: leave it out";
  }
  if (needed == Needed::kGeneration || purpose.save) return {};
  return std::string("is for what is recorded, and this run records nothing: ") +
         (as_configured ? "set kv_cache.save in the configuration" : "add --save");
}

void refuse_parallel_memory_alone(const RunOptions& options) {
  if (!options.parallel_memory_mib || options.parallel) return;
  throw_usage("--parallel-memory is for a parallel replay: add --parallel");
}

}  // namespace

void refuse_idle_options(const RunOptions& options, const Purpose& purpose) {
  for (const OptionUse& use : kUses) {
    if (!use.given(options)) continue;
    const std::string why = why_idle(use.needed, purpose);
    if (!why.empty()) throw_usage(std::string(use.name) + " " + why);
  }
  refuse_parallel_memory_alone(options);
}

void refuse_idle_reference_options(const RunOptions& options) {
  refuse_parallel_memory_alone(options);
  if (!options.from) {
    if (options.ref_dir) {
      throw_usage("--ref-dir is the folder of the label that --from names: add --from LABEL");
    }
    return;
  }
  const auto refuse = [](bool given, const char* name) {
    if (!given) return;
    throw_usage(std::string(name) +
                " is for a reference that is recorded now, and --from names one that is there: "
                "leave one of the two out");
  };
  refuse(options.max_new_tokens.has_value(), "--max-new-tokens");
  refuse(options.ignore_eos, "--ignore-eos");
}

}  // namespace kvtool::cli
