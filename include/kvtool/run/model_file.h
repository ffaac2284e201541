// Finds exported models by file name or Hugging Face id.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

namespace kvtool::run {

struct ModelFile {
  std::filesystem::path path;
  std::string slug;  // of the id, or of the file's name: known before the file is loaded
};

// An exported file, or a Hugging Face id that has one in models/ of the current
// folder or of `config_folder`. Error kUsage for a missing file,
// kEnvironment for an id that was not exported (with the command that does).
[[nodiscard]] ModelFile resolve_model(const std::string& given,
                                      const std::filesystem::path& config_folder);

// models/SLUG.pt for a slug, or nothing.
[[nodiscard]] std::optional<ModelFile> find_exported_model(
    const std::string& slug, const std::filesystem::path& config_folder);

// The command that exports a Hugging Face model.
[[nodiscard]] std::string export_command(const std::string& model_id);

}  // namespace kvtool::run
