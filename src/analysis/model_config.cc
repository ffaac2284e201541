#include "kvtool/analysis/model_config.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string_view>
#include <utility>

#include "kvtool/base/text.h"

namespace kvtool::analysis {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxFields = 16;
constexpr std::size_t kMaxCharacters = 80;
constexpr const char* kNotThere = "not there";

std::string field_value(const json& value) {
  // In ASCII, so that what a file says cannot steer a terminal.
  const std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
  return text.size() <= kMaxCharacters ? text : text.substr(0, kMaxCharacters - 3) + "...";
}

// Differing fields by name; of those beyond kMaxFields only the number.
class FieldList {
 public:
  void add(const std::string& field, const json* recorded, const json* live) {
    if (fields_.size() == kMaxFields) {
      ++others_;
      return;
    }
    fields_.push_back({.field = printable(shortened(field, kMaxCharacters)),
                       .recorded = recorded == nullptr ? kNotThere : field_value(*recorded),
                       .live = live == nullptr ? kNotThere : field_value(*live)});
  }

  [[nodiscard]] std::vector<FieldDifference> take() {
    if (others_ > 0) fields_.push_back({counted(others_, "further field"), "...", "..."});
    return std::move(fields_);
  }

 private:
  std::vector<FieldDifference> fields_;
  std::size_t others_ = 0;
};

class ConfigWalk {
 public:
  explicit ConfigWalk(bool same_transformers) : same_transformers_(same_transformers) {}

  void objects(const std::string& prefix, const json& recorded, const json& live) {
    std::set<std::string_view> names;
    for (const auto& [name, unused] : recorded.items()) names.insert(name);
    for (const auto& [name, unused] : live.items()) names.insert(name);
    for (const std::string_view name : names) {
      // Shortened here, so that a hostile name is not copied for each of its members.
      const std::string field = prefix + shortened(name, kMaxCharacters);
      member(field, at(recorded, name), at(live, name));
    }
  }

  FieldList other;
  FieldList undecided;

 private:
  static const json* at(const json& object, std::string_view name) {
    const auto found = object.find(name);
    return found == object.end() ? nullptr : &*found;
  }

  void member(const std::string& field, const json* recorded, const json* live) {
    if (recorded != nullptr && live != nullptr) {
      values(field, *recorded, *live);
    } else if (!(recorded != nullptr ? recorded : live)->is_null()) {
      (same_transformers_ ? other : undecided).add(field, recorded, live);
    }
  }

  void values(const std::string& field, const json& recorded, const json& live) {
    if (recorded == live) return;
    if (recorded.is_object() && live.is_object()) {
      objects(field + ".", recorded, live);
    } else if (recorded.is_array() && live.is_array() && recorded.size() == live.size()) {
      for (std::size_t i = 0; i < recorded.size(); ++i) {
        values(field + "[" + std::to_string(i) + "]", recorded[i], live[i]);
      }
    } else {
      other.add(field, &recorded, &live);
    }
  }

  bool same_transformers_;
};

// Null unless `model` has a known config.
const json* config_in(const json& model) {
  if (!model.is_object()) return nullptr;
  const auto found = model.find("config");
  return found != model.end() && found->is_object() ? &*found : nullptr;
}

bool same_transformers(const json& recorded, const json& live) {
  const auto was = recorded.find("transformers_version");
  const auto is = live.find("transformers_version");
  return was != recorded.end() && is != live.end() && was->is_string() && *was == *is;
}

std::string listed(const std::vector<FieldDifference>& differences,
                   std::string FieldDifference::* side) {
  std::string text;
  for (const FieldDifference& each : differences) {
    text += (text.empty() ? "" : ", ") + each.field + " = " + each.*side;
  }
  return text;
}

std::optional<std::int64_t> integer_at(const json& config, std::string_view name) {
  const auto found = config.find(name);
  if (found == config.end() || !found->is_number_integer()) return std::nullopt;
  return found->get<std::int64_t>();
}

bool has_experts(const json& config) {
  constexpr std::array kNames = {"num_experts", "num_local_experts", "n_routed_experts",
                                 "moe_num_experts"};
  const auto enabled = config.find("enable_moe_block");
  if (enabled != config.end() && *enabled == false) return false;
  return std::any_of(kNames.begin(), kNames.end(),
                     [&](const char* name) { return integer_at(config, name).value_or(0) > 1; });
}

// Null unless the config has a list of this name.
const json* list_at(const json& config, std::string_view name) {
  const auto found = config.find(name);
  return found != config.end() && found->is_array() ? &*found : nullptr;
}

// Every step-th layer, counted from 1.
bool is_at_step(const json& config, std::string_view name, std::int64_t layer) {
  const std::int64_t step = integer_at(config, name).value_or(1);
  return step <= 1 || (layer + 1) % step == 0;
}

// Of a model with experts, where its config has no list of layers.
bool is_routed_layer(const json& config, std::int64_t layer) {
  for (const char* first : {"first_k_dense_replace", "num_dense_layers", "moe_layer_start_index"}) {
    if (layer < integer_at(config, first).value_or(0)) return false;
  }
  const std::int64_t last = integer_at(config, "moe_layer_end_index").value_or(-1);
  if (last >= 0 && layer > last) return false;
  return is_at_step(config, "decoder_sparse_step", layer) &&
         is_at_step(config, "moe_layer_interval", layer);
}

void take_types(const json& types, std::vector<bool>& routed) {
  for (std::size_t layer = 0; layer < routed.size(); ++layer) {
    routed[layer] = layer < types.size() && types[layer] == "sparse";
  }
}

void leave_out(const json& dense, std::vector<bool>& routed) {
  for (const json& each : dense) {
    if (!each.is_number_integer()) continue;
    const auto layer = each.get<std::int64_t>();
    if (layer >= 0 && layer < static_cast<std::int64_t>(routed.size())) {
      routed[static_cast<std::size_t>(layer)] = false;
    }
  }
}

}  // namespace

std::vector<bool> routed_layers(const json& meta) {
  constexpr std::int64_t kMostLayers = 4096;
  const auto model = meta.find("model");
  const json* config = model == meta.end() ? nullptr : config_in(*model);
  if (config == nullptr || !has_experts(*config)) return {};
  const std::int64_t count = integer_at(*config, "num_hidden_layers").value_or(0);
  std::vector<bool> routed;
  for (std::int64_t layer = 0; layer < std::min(count, kMostLayers); ++layer) {
    routed.push_back(is_routed_layer(*config, layer));
  }
  if (const json* dense = list_at(*config, "mlp_only_layers")) leave_out(*dense, routed);
  if (const json* types = list_at(*config, "mlp_layer_types")) take_types(*types, routed);
  return routed;
}

ConfigComparison compare_configs(const json& recorded_model, const json& live_model) {
  const json* recorded = config_in(recorded_model);
  const json* live = config_in(live_model);
  ConfigComparison result;
  result.recorded_known = recorded != nullptr;
  result.live_known = live != nullptr;
  if (!result.recorded_known || !result.live_known) return result;
  ConfigWalk walk(same_transformers(recorded_model, live_model));
  walk.objects("", *recorded, *live);
  result.other = walk.other.take();
  result.undecided = walk.undecided.take();
  return result;
}

std::string recorded_fields(const std::vector<FieldDifference>& differences) {
  return listed(differences, &FieldDifference::recorded);
}

std::string live_fields(const std::vector<FieldDifference>& differences) {
  return listed(differences, &FieldDifference::live);
}

}  // namespace kvtool::analysis
