// Compares what models are beside their weights: the canonical configs that the exporter
// writes (docs/models.md, "What a model is"; docs/format.md, "The model's config").
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace kvtool::analysis {

// Both as one line of ASCII, at most 80 characters; "not there" for a field that one side lacks.
struct FieldDifference {
  std::string field;  // "rope_parameters.rope_theta", "layer_types[2]"
  std::string recorded;
  std::string live;
};

// Each list holds at most 16 fields, then one entry that counts the others.
struct ConfigComparison {
  bool recorded_known = false;
  bool live_known = false;
  // Another model: fields with two values, and fields that one side lacks although the same
  // version of transformers exported both.
  std::vector<FieldDifference> other;
  // Fields that one side lacks, of two versions of transformers: which fields a config has
  // depends on the version, so they may or may not make another model.
  std::vector<FieldDifference> undecided;
};

// Of META's member `model`. It may come from anywhere: what is no object or holds none as
// `config` has no known config, and then there is no difference.
[[nodiscard]] ConfigComparison compare_configs(const nlohmann::json& recorded_model,
                                               const nlohmann::json& live_model);

// "rope_parameters.rope_theta = 10000, sliding_window = null", of the one side or the other.
[[nodiscard]] std::string recorded_fields(const std::vector<FieldDifference>& differences);
[[nodiscard]] std::string live_fields(const std::vector<FieldDifference>& differences);

// META of a recording: which layers of its model have a mixture of experts, by number, as far as
// its config says so (transformers' names: num_experts and its like, with mlp_layer_types,
// mlp_only_layers, decoder_sparse_step, first_k_dense_replace, num_dense_layers or moe_layer_* for
// the layers that have none). Empty where the model has no experts, or nothing is known.
[[nodiscard]] std::vector<bool> routed_layers(const nlohmann::json& meta);

}  // namespace kvtool::analysis
