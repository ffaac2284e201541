// Finds exported models by file name or Hugging Face id.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "kvtool/base/stop.h"
#include "kvtool/base/subprocess.h"
#include "kvtool/engine/api.h"

namespace kvtool::run {

struct ModelFile {
  std::filesystem::path path;
  std::string slug;  // of the id, or of the file's name: known before the file is loaded
  // The id that it was found by, which the file has to hold; empty for a file that was named.
  std::string id = {};
};

// An exported file, or a Hugging Face id that has one in models/ of the current
// folder or of `config_folder`. Error kUsage for a missing file,
// kEnvironment for an id that was not exported (with the command that does).
[[nodiscard]] ModelFile resolve_model(const std::string& given,
                                      const std::filesystem::path& config_folder);

// models/SLUG.pt for a slug, or nothing.
[[nodiscard]] std::optional<ModelFile> find_exported_model(
    const std::string& slug, const std::filesystem::path& config_folder);

// Error kUsage that names both where `file` was found by an id, and the model in it has
// another: ids that differ in case or punctuation have one slug.
void check_model_id(const ModelFile& file, const engine::ModelInfo& model);

// The folder of a checkpoint that a person has, rather than an id.
[[nodiscard]] bool is_checkpoint_folder(const std::string& given);

// Runs the exporter with these options; replaced in tests.
using ExporterProcess = std::function<ProcessResult(const std::vector<std::string>& options)>;
// The interpreter of run_encoder() running the exporter. Interrupted once `stop` is requested.
[[nodiscard]] ProcessResult run_exporter(const std::vector<std::string>& options,
                                         const StopToken& stop);

// Exports the checkpoint into models/SLUG.pt of the current folder, SLUG of the folder's name.
// Error kEnvironment with the exporter's words where it fails.
void export_checkpoint(const std::string& folder, const std::string& dtype,
                       const ExporterProcess& process);

// The command that exports a Hugging Face model.
[[nodiscard]] std::string export_command(const std::string& model_id);

}  // namespace kvtool::run
