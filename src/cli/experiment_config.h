// What a file says of experiments: JSON with comments, or YAML.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kvtool/run/experiment.h"

namespace kvtool::cli {

// What an entry of a list, or the options of a command, say; the rest is left to defaults.
struct ExperimentChoices {
  std::optional<std::string> mode, model, dtype;
  std::vector<std::uint64_t> contexts;
  std::optional<std::uint64_t> runs, max_new_tokens, page_size, max_device_pages, prefetch_k,
      batch_size;

  // What is chosen here, else what `settings` have.
  void apply_to(run::ExperimentSettings& settings) const;
};

struct ExperimentConfig {
  std::filesystem::path path;  // empty: no file
  std::vector<run::ExperimentSettings> experiments;
  std::vector<run::Prompt> prompts;
  std::optional<std::filesystem::path> text;
  std::optional<std::string> output_dir;
  std::optional<std::string> device;
};

// Of a file whose name ends in .yaml or .yml, else JSON. Error kUsage: syntax with line and column,
// unknown keys with the nearest known one, wrong types and values with the key's path, and what
// greedy generation from files as they are cannot do.
[[nodiscard]] ExperimentConfig parse_experiment_config(std::string_view text,
                                                       const std::filesystem::path& path);
[[nodiscard]] ExperimentConfig load_experiment_config(const std::filesystem::path& path);

// Error kUsage, which begins with `where`, for anything but "none".
void refuse_quantized_weights(const std::string& where, const std::string& quantization);

// A file with comments that parse_experiment_config() reads: each mode once, of `model`.
[[nodiscard]] std::string default_experiment_config(const std::string& model, bool yaml);

}  // namespace kvtool::cli
