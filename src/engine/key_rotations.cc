#include "engine/key_rotations.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "kvtool/base/error.h"

namespace kvtool::engine {
namespace {

using Json = nlohmann::json;

KeyRotation::Pairing pairing_of(const Json& rotation) {
  const auto name = rotation.at("pairing").get<std::string>();
  if (name == "halves") return KeyRotation::Pairing::kHalves;
  if (name == "interleaved") return KeyRotation::Pairing::kInterleaved;
  throw_incompatible("pairing \"" + name + "\" is none that this kvtool knows");
}

KeyRotation parse_rotation(const Json& json) {
  KeyRotation rotation{json.at("offset").get<std::int64_t>(), json.at("dims").get<std::int64_t>(),
                       pairing_of(json), json.at("inv_freq").get<std::vector<double>>()};
  const bool holds = rotation.offset >= 0 && rotation.dims > 0 && rotation.dims % 2 == 0 &&
                     rotation.inv_freq.size() == static_cast<std::size_t>(rotation.dims) / 2 &&
                     std::all_of(rotation.inv_freq.begin(), rotation.inv_freq.end(),
                                 [](double frequency) { return std::isfinite(frequency); });
  if (holds) return rotation;
  throw_incompatible("a rotation of " + std::to_string(rotation.dims) + " channels from " +
                     std::to_string(rotation.offset) + " on with " +
                     std::to_string(rotation.inv_freq.size()) + " frequencies is none");
}

std::shared_ptr<const KeyRotation> rotation_at(
    const Json& index, const std::vector<std::shared_ptr<const KeyRotation>>& rotations,
    const format::LayerGeometry& layer) {
  if (index.is_null()) return nullptr;
  const auto& rotation = rotations.at(index.get<std::size_t>());
  if (rotation->offset <= layer.key_dim && rotation->dims <= layer.key_dim - rotation->offset) {
    return rotation;
  }
  throw_incompatible("channels " + std::to_string(rotation->offset) + " to " +
                     std::to_string(rotation->offset + rotation->dims - 1) +
                     " of a layer that has " + std::to_string(layer.key_dim));
}

KeyRotations parse_rotations(const Json& rotary, const format::Geometry& geometry) {
  std::vector<std::shared_ptr<const KeyRotation>> rotations;
  for (const Json& each : rotary.at("rotations")) {
    rotations.push_back(std::make_shared<KeyRotation>(parse_rotation(each)));
  }
  const Json& layers = rotary.at("layers");
  if (layers.size() != geometry.num_layers()) {
    throw_incompatible("it says " + std::to_string(layers.size()) + " layers of " +
                       std::to_string(geometry.num_layers()));
  }
  KeyRotations found;
  for (std::uint32_t layer = 0; layer < geometry.num_layers(); ++layer) {
    found.layers.push_back(rotation_at(layers[layer], rotations, geometry.layer(layer)));
  }
  return found;
}

}  // namespace

KeyRotations key_rotations_of(const ModelInfo& info) {
  try {
    const Json metadata = Json::parse(info.metadata_json);
    if (!metadata.contains("rotary")) {
      return {{},
              info.model_id +
                  " was exported before model files said how its positions turn keys; "
                  "export it again with tools/export_model.py"};
    }
    const Json& rotary = metadata["rotary"];
    if (!rotary.contains("reason")) return parse_rotations(rotary, info.geometry);
    return {{}, info.model_id + ": " + rotary["reason"].get<std::string>()};
  } catch (const Error& error) {
    throw_incompatible(info.path + ": rotary of its kvtool.json: " + error.what() +
                       "; export the model again");
  } catch (const std::exception& error) {
    throw_incompatible(info.path + ": rotary of its kvtool.json is damaged: " + error.what() +
                       "; export the model again");
  }
}

}  // namespace kvtool::engine
