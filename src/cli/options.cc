#include "options.h"

#include <CLI/CLI.hpp>
#include <limits>

#include "choices.h"
#include "kvtool/analysis/gate.h"
#include "kvtool/base/error.h"
#include "kvtool/cache/cache_spec.h"
#include "kvtool/engine/cpu_isa.h"
#include "kvtool/format/geometry.h"
#include "kvtool/format/logit_sample.h"
#include "kvtool/format/replay_mode.h"
#include "kvtool/format/save_mode.h"

namespace kvtool::cli {
namespace {

const CLI::Range kCount(std::uint64_t{1},
                        static_cast<std::uint64_t>(std::numeric_limits<std::int32_t>::max()),
                        "COUNT");

constexpr const char* kInputsGroup = "Model and prompts";
constexpr const char* kGenerationGroup = "Generation";
constexpr const char* kReferenceGroup = "Reference";
constexpr const char* kOutputGroup = "Output";

std::string check_device(const std::string& name) {
  if (name == "auto" || name == "cpu" || name == "cuda") return {};
  const bool indexed = name.rfind("cuda:", 0) == 0 && name.size() > 5 && name.size() < 9 &&
                       name.find_first_not_of("0123456789", 5) == std::string::npos;
  return indexed ? std::string() : "'" + name + "' is not auto, cpu, cuda or cuda:N";
}

std::vector<std::string> cpu_isas() {
  std::vector<std::string> names = names_of(engine::kCpuIsas);
  names.emplace(names.begin(), engine::kAnyCpuIsa);
  return names;
}

// Empty when it is one; CLI11 names the option.
std::string check_cache_spec(const std::string& text) {
  try {
    static_cast<void>(cache::CacheSpec::parse(text));
    return {};
  } catch (const Error& error) {
    return error.message();
  }
}

std::string list_of_policies() {
  std::string list;
  for (const cache::PolicyInfo& policy : cache::policies()) {
    list +=
        (list.empty() ? "" : "; ") + std::string(policy.name) + ": " + std::string(policy.summary);
    std::string names;
    for (const cache::OptionInfo& option : policy.options) {
      names += (names.empty() ? "" : ", ") + std::string(option.name);
    }
    if (!names.empty()) list += " (" + names + ")";
  }
  return list;
}

void add_text_options(CLI::App& app, RunOptions& options) {
  app.add_option("--text", options.text_file, "A text that is cut to the lengths of --context")
      ->option_text("FILE")
      ->group(kInputsGroup);
  app.add_option("--context", options.contexts, "Prompts of exactly so many tokens, out of --text")
      ->option_text("N[,N...]")
      ->delimiter(',')
      ->check(kCount)
      ->group(kInputsGroup);
}

}  // namespace

void add_common_options(CLI::App& app, RunOptions& options) {
  app.add_option("--config", options.config,
                 "Configuration (JSON, comments allowed); default hyperparameter.json of the "
                 "current folder when there is one. Options win over it")
      ->option_text("FILE")
      ->group(kInputsGroup);
  app.add_option("--model", options.models,
                 "Exported model (models/SLUG.pt) or a Hugging Face id whose models/SLUG.pt "
                 "exists; repeatable")
      ->option_text("FILE|ID")
      ->allow_extra_args(false)
      ->group(kInputsGroup);
  app.add_option("--prompt", options.prompts, "A prompt as text; repeatable")
      ->option_text("TEXT")
      ->allow_extra_args(false)
      ->group(kInputsGroup);
  app.add_option(
         "--prompts", options.prompts_file,
         "Prompts, one JSON object a line (or an array of them): {\"text\": ...}, "
         "{\"messages\": [...]} (through the model's chat template) or {\"token_ids\": [...]}")
      ->option_text("FILE.jsonl")
      ->group(kInputsGroup);
  add_text_options(app, options);
  app.add_option("--request-number", options.request_number,
                 "Number of inputs; prompts repeat in order when there are fewer (default: all "
                 "prompts once)")
      ->option_text("N")
      ->check(kCount)
      ->group(kInputsGroup);

  app.add_option("--batch-size", options.batch_sizes,
                 "Inputs that run together; several sizes run one after the other (default 1)")
      ->option_text("N[,N...]")
      ->delimiter(',')
      ->check(kCount)
      ->group(kGenerationGroup);

  add_device_options(app, options);
  add_json_option(app, options.reports);
  add_verbosity_options(app, options.quiet, options.verbose);
}

void add_device_options(CLI::App& app, RunOptions& options) {
  const char* device = "Device";
  app.add_option("--device", options.device, "auto (CUDA when there is one), cpu, cuda or cuda:N")
      ->option_text("DEVICE")
      ->check(CLI::Validator(check_device, ""))
      ->group(device);
  app.add_option("--device-label", options.device_label,
                 "Name of this device in paths (default: the GPU's name, or CPU)")
      ->option_text("LABEL")
      ->group(device);
  app.add_option("--cpu-isa", options.cpu_isa,
                 "Limit the CPU's instruction set, which changes rounding for real: " +
                     CLI::detail::join(cpu_isas(), ", "))
      ->option_text("ISA")
      ->check(CLI::IsMember(cpu_isas()))
      ->group(device);
  app.add_option("--threads", options.threads, "CPU threads (default: torch's choice)")
      ->option_text("N")
      ->check(CLI::Range(0, 4096))
      ->group(device);

  app.add_option("--kv-cache", options.kv_cache,
                 "How this device keeps K/V: a policy, with options NAME:OPTION=VALUE,... "
                 "(docs/caches.md says what they do). " +
                     list_of_policies() +
                     ". Default: contiguous; in a replay, as the recordings say")
      ->option_text("SPEC")
      ->check(CLI::Validator(check_cache_spec, ""))
      ->group(device);
}

void add_length_options(CLI::App& app, RunOptions& options) {
  app.add_option("--max-new-tokens", options.max_new_tokens, "Most tokens per input (default 128)")
      ->option_text("N")
      ->check(kCount)
      ->group(kGenerationGroup);
  app.add_flag("--ignore-eos", options.ignore_eos, "Go on after an end-of-sequence token")
      ->group(kGenerationGroup);
}

void add_json_option(CLI::App& app, ReportTargets& targets) {
  app.add_option("--json", targets.json,
                 "Also write the results as JSON; '-' is stdout instead of text")
      ->option_text("FILE")
      ->group(kOutputGroup);
}

void add_report_options(CLI::App& app, ReportTargets& targets) {
  app.add_option("--junit", targets.junit,
                 "Also write JUnit XML for a CI system: a case per input and per gate rule")
      ->option_text("FILE")
      ->group(kOutputGroup);
  add_page_options(app, targets);
}

void add_page_options(CLI::App& app, ReportTargets& targets) {
  app.add_option("--markdown", targets.markdown, "Also write Markdown, as for a CI job's summary")
      ->option_text("FILE")
      ->group(kOutputGroup);
  app.add_option("--html", targets.html, "Also write one self-contained page with charts")
      ->option_text("FILE")
      ->group(kOutputGroup);
}

void add_verbosity_options(CLI::App& app, bool& quiet_flag, bool& verbose_flag) {
  auto* quiet = app.add_flag("-q,--quiet", quiet_flag, "The summary only, no progress");
  quiet->group(kOutputGroup);
  auto* verbose =
      app.add_flag("-v,--verbose", verbose_flag, "Whole prompts and details of what is done");
  verbose->excludes(quiet)->group(kOutputGroup);
  // CLI11 prints "Excludes:" into the help lines otherwise.
  quiet->option_text(" ");
  verbose->option_text(" ");
}

void add_save_options(CLI::App& app, RunOptions& options) {
  const char* recording = "Recording";
  app.add_option("--save-mode", options.save_mode,
                 "What is kept: " + names_and_summaries(format::kSaveModes) +
                     ". Default: " + std::string(format::kSaveModes.front().name))
      ->option_text("MODE")
      ->check(CLI::IsMember(names_of(format::kSaveModes)))
      ->group(recording);
  app.add_option("--out", options.out,
                 "Folder for DEVICE/MODEL/batchN_inputM.kvc; {timestamp} may stand in it (default "
                 "outputs/{timestamp}/kv_caches)")
      ->option_text("DIR")
      ->group(recording);
  app.add_flag("--force", options.force, "Replace recordings that exist already")->group(recording);
  app.add_flag("--fsync", options.fsync,
               "A recording that has its final name outlives a power failure")
      ->group(recording);
  app.add_option("--fsync-every", options.fsync_every,
                 "As --fsync, and the steps of an unfinished recording too, after every N of them")
      ->option_text("N")
      ->check(kCount)
      ->group(recording);
}

void add_logits_options(CLI::App& app, RunOptions& options) {
  const std::string recording = app.get_option("--out")->get_group();
  app.add_option("--top-k", options.top_k, "Logits recorded per step (default 32)")
      ->option_text("K")
      ->check(CLI::Range(std::uint32_t{1}, format::kMaxTopK))
      ->group(recording);
  app.add_option(
         "--logits-sample", options.logits_sample,
         "Logits recorded per step beside those, of tokens all over the vocabulary, so that "
         "a replay can tell noise from faults (default 64; 0: none)")
      ->option_text("N")
      ->check(CLI::Range(std::uint32_t{0}, format::kMaxLogitsSample))
      ->group(recording);
}

void add_resume_option(CLI::App& app, RunOptions& options) {
  auto* force = app.get_option("--force");
  auto* resume = app.add_flag("--resume", options.resume,
                              "Continue an interrupted save: keep what is complete, record the "
                              "rest. With {timestamp} in --out, in the newest such folder");
  resume->excludes(force)->group(force->get_group());
  // CLI11 prints "Excludes:" into the help lines otherwise.
  force->option_text(" ");
  resume->option_text(" ");
}

void add_reference_options(CLI::App& app, RunOptions& options, const std::string& from) {
  app.add_option("--from", options.from, from)->option_text("LABEL|PATH")->group(kReferenceGroup);
  app.add_option("--ref-dir", options.ref_dir,
                 "Folder of references, LABEL/MODEL/batchN_inputM.kvc (default ref_cache)")
      ->option_text("DIR")
      ->group(kReferenceGroup);
}

void add_from_batch_size_option(CLI::App& app, RunOptions& options) {
  app.add_option("--from-batch-size", options.from_batch_size,
                 "Replay the recordings batchN_*.kvc, where a folder has several N")
      ->option_text("N")
      ->check(kCount)
      ->group(kReferenceGroup);
}

void add_replay_options(CLI::App& app, RunOptions& options) {
  const char* reference = kReferenceGroup;
  add_reference_options(app, options,
                        "The recordings to compare with: a device label below --ref-dir, or the "
                        "path of a .kvc file or of a folder");
  add_from_batch_size_option(app, options);
  add_shape_options(app, options);
  app.add_option(
         "--mode", options.modes,
         "How the steps are fed, one or several: " + names_and_summaries(format::kReplayModes) +
             ". Default: inject, and those that the gate's rules name")
      ->option_text("MODE[,MODE...]")
      ->delimiter(',')
      ->check(CLI::IsMember(names_of(format::kReplayModes)))
      ->group(reference);
  add_gate_options(app, options.gate, options.allow_different_weights);
}

void add_shape_options(CLI::App& app, RunOptions& options) {
  auto* batch =
      app.add_option("--batch", options.batch,
                     "recorded: in the batches in which the inputs were recorded (default); 1: one "
                     "input at a time, which other kernels compute")
          ->option_text("SHAPE")
          ->check(CLI::IsMember({"recorded", "1"}))
          ->group(kReferenceGroup);
  app.add_flag("--parallel", options.parallel,
               "All steps of an input in one forward pass, and several inputs together: many times "
               "faster, with other kernels than step by step. Modes inject and forced")
      ->excludes(batch)
      ->option_text(" ")
      ->group(kReferenceGroup);
  app.add_option("--parallel-memory", options.parallel_memory_mib,
                 "Memory of a parallel replay beside the model, in MiB (default 1024)")
      ->option_text("MIB")
      ->check(kCount)
      ->group(kReferenceGroup);
}

void add_gate_options(CLI::App& app, std::optional<std::string>& gate,
                      bool& allow_different_weights) {
  const char* group = "Verdict";
  std::string names;
  for (const std::string_view name : analysis::builtin_gate_names()) {
    names += (names.empty() ? "" : ", ") + std::string(name);
  }
  app.add_option("--gate", gate,
                 "What is good enough for exit status 0: " + names +
                     ", or a gate file (docs/gates.md). Default: no hard flip, no NaN or Inf")
      ->option_text("NAME|FILE")
      ->group(group);
  app.add_flag("--allow-different-weights", allow_different_weights,
               "Compare with recordings of other weights, K/V types or another config of the "
               "model, such as FP8 with FP16")
      ->group(group);
}

}  // namespace kvtool::cli
