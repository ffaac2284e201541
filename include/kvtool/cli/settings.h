// The settings of one run: command line over configuration over defaults.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "kvtool/analysis/gate.h"
#include "kvtool/cli/config.h"
#include "kvtool/cli/options.h"
#include "kvtool/cli/prompts.h"
#include "kvtool/cli/reference.h"
#include "kvtool/format/recording.h"
#include "kvtool/format/replay_mode.h"

namespace kvtool::cli {

struct Settings {
  std::string command;                  // "save"
  std::filesystem::path config_folder;  // of the configuration file; empty without one

  std::vector<std::string> models;  // as given: files or ids
  std::vector<Prompt> prompts;
  bool prompts_on_command_line = false;
  std::optional<std::uint64_t> request_number;
  std::vector<std::uint64_t> batch_sizes;  // empty: not given
  std::uint64_t max_new_tokens = 128;
  bool ignore_eos = false;

  std::string device = "auto";
  std::string device_label;  // empty: the engine's
  std::string cpu_isa = "auto";
  int threads = 0;

  bool save = false;
  std::optional<format::SaveMode> save_mode;
  std::string base_dir = "outputs/{timestamp}/kv_caches";
  std::uint32_t top_k = 32;
  bool force = false;
  bool resume = false;  // not together with force or replay
  bool sync = false;    // WriterOptions
  std::uint64_t sync_every_steps = 0;

  bool replay = false;
  std::string from;  // empty: not given
  std::string ref_dir = "ref_cache";
  std::optional<std::uint64_t> from_batch_size;
  BatchShape batch_shape = BatchShape::kRecorded;
  std::optional<std::uint64_t> parallel_memory_bytes;  // with BatchShape::kParallel
  std::vector<format::ReplayMode> replay_modes;  // empty: those that the gate needs
  std::optional<analysis::GateSpec> gate;        // nothing: the default gate
  bool allow_different_weights = false;

  ReportTargets reports;
  bool quiet = false;
  bool verbose = false;
};

// What a subcommand does whatever the configuration says.
enum class Action { kGenerate, kSave, kReplay, kAsConfigured };

// Reads the configuration file. Error kUsage.
[[nodiscard]] Settings resolve_settings(const RunOptions& options, Action action,
                                        const std::string& command);

struct ModelFile {
  std::filesystem::path path;
  std::string slug;  // of the id, or of the file's name: known before the file is loaded
};

// An exported file, or a Hugging Face id that has one in models/ of the current
// folder or of the configuration's. Error kUsage for a missing file,
// kEnvironment for an id that was not exported (with the command that does).
[[nodiscard]] ModelFile resolve_model(const std::string& given,
                                      const std::filesystem::path& config_folder);

// models/SLUG.pt for a slug, or nothing.
[[nodiscard]] std::optional<ModelFile> find_exported_model(
    const std::string& slug, const std::filesystem::path& config_folder);

// The command that exports a Hugging Face model.
[[nodiscard]] std::string export_command(const std::string& model_id);

}  // namespace kvtool::cli
