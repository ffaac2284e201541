// The file of a run: what was measured under which settings, so that a later command need not
// repeat it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "kvtool/run/experiment.h"

namespace kvtool::run {

// What a run's numbers depend on: equal settings, and it need not be repeated.
struct RunSettings {
  std::string mode = {};
  std::string spec = {};
  std::string model_id = {};
  std::string weights_sha256 = {};
  std::string prompts = {};        // in words
  std::string prompt_digest = {};  // of their tokens
  std::uint64_t asked_context = 0;
  std::uint64_t context = 0;
  std::uint64_t batch_size = 1;
  std::uint64_t max_new_tokens = 0;
  std::string device = {};
  std::string cpu_isa = {};
  std::uint64_t threads = 0;

  friend bool operator==(const RunSettings&, const RunSettings&) = default;
};

// A failed or a finished run of `experiment`, whole and under its final name, or not at all.
void write_run(const std::filesystem::path& folder, const RunSettings& settings,
               const Experiment& experiment, const ExperimentRun& run,
               const std::string& created_utc);

// Of an earlier command; nothing where it is missing, damaged, failed or of other settings. Takes
// over what the file says of the experiment's quality, too.
[[nodiscard]] std::optional<ExperimentRun> read_run(const std::filesystem::path& folder,
                                                    const RunSettings& settings,
                                                    std::uint64_t number, Experiment& experiment);

// experiment_summary.json.
void write_summary(const ExperimentResult& result);

}  // namespace kvtool::run
