// What a list of experiments means: caches, and which entries run together.
#pragma once

#include <string>
#include <vector>

#include "kvtool/cache/cache_spec.h"
#include "kvtool/run/experiment.h"

namespace kvtool::run {

// The cache of a mode. Error kUsage for a mode that is no spec, and for settings that its policy
// cannot have.
[[nodiscard]] cache::CacheSpec experiment_cache(const ExperimentSettings& settings);

// Experiments that share a prompt and a reference.
struct ExperimentGroup {
  std::uint64_t context = 0;  // as it was asked for
  std::uint64_t batch_size = 1;
  std::uint64_t max_new_tokens = 0;
  std::vector<std::size_t> experiments;  // indices
};

// Those of one model, as it was given.
struct ModelExperiments {
  std::string model;
  std::vector<ExperimentGroup> groups;
};

struct ExperimentPlan {
  std::vector<Experiment> experiments;
  std::vector<ModelExperiments> models;  // in the order in which they come first
};
// Error kUsage, which names the entry, for what cannot run.
[[nodiscard]] ExperimentPlan plan_experiments(const std::vector<ExperimentSettings>& settings);

// The longest prompt, up to `asked`, that leaves room for the new tokens. Error kUsage where the
// model has room for none.
[[nodiscard]] std::uint64_t fitting_context(std::uint64_t asked, std::uint64_t max_new_tokens,
                                            const engine::ModelInfo& model);

}  // namespace kvtool::run
