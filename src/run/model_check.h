// Whether a recording can be replayed with a model, or compared with another
// recording: the one place of these rules in the commands.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "kvtool/engine/api.h"
#include "kvtool/format/reader.h"

namespace kvtool::run {

struct ModelIdentity {
  std::string subject;  // for messages: "ref/batch1_input0.kvc", "the model X (models/x.pt)"
  std::string id;
  std::string dtype;
  std::string architecture;  // empty: unknown
  format::Sha256 weights_sha256{};
  std::uint32_t vocab_size = 0;
  format::Geometry geometry;
  DType logits_dtype = DType::kFloat32;
  nlohmann::json exported;  // META's member `model`: config, version of transformers
};
[[nodiscard]] ModelIdentity identity_of(const format::Recording& recording);
[[nodiscard]] ModelIdentity identity_of(const engine::ModelInfo& model);

// In what two models differ that may be compared all the same.
struct ModelDifferences {
  bool weights = false;
  bool config = false;  // a field that makes another model of equal weights
};

// Error kIncompatible, naming both sides, unless the two can be compared: the
// same vocabulary, layers, heads and dims always, and unless
// allow_different_weights the same weights, architecture, config, K/V and logits
// dtypes. A config that one side does not know is no difference.
ModelDifferences check_same_model(const ModelIdentity& recorded, const ModelIdentity& live,
                                  bool allow_different_weights);

}  // namespace kvtool::run
