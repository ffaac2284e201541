#include "kvtool/analysis/provenance.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string_view>
#include <utility>

#include "environment.h"
#include "kvtool/analysis/model_config.h"
#include "kvtool/format/meta.h"

namespace kvtool::analysis {
namespace {

using nlohmann::json;

constexpr const char* kUnknown = "unknown";
// For `when_absent`: what one side does not know is no difference. Older
// recordings lack the member, or it is checked elsewhere.
constexpr const char* kNotCompared = "";
constexpr const char* kConfig = "model.config";

// On which pairs of devices a setting can explain anything.
enum class Scope {
  kAlways,
  kBothCpu,   // of the host CPU: nothing to a GPU's results
  kBothCuda,  // a CPU has no such thing
  kNotBothCpu,
};

struct Entry {
  const char* key;  // path with dots
  const char* label;
  const char* why;
  Scope scope = Scope::kAlways;
  const char* when_absent = nullptr;  // what a missing value stands for
};

// In the order in which a person should rule causes out.
constexpr std::array kEntries = {
    Entry{"model.weights_sha256", "weights", "other weights are another model", Scope::kAlways,
          kNotCompared},
    Entry{"model.architecture", "architecture", "equal weights can be read by another network"},
    // The label stands before the name of a field.
    Entry{kConfig, "config", "equal weights of another config are another model"},
    Entry{"model.graph_sha256", "traced graph",
          "another graph computes with other operations or constants"},
    Entry{"model.dtype", "model dtype", "another number format rounds every result differently"},
    Entry{"cache", "K/V cache",
          "another cache may keep rows in other numbers, or show a query others", Scope::kAlways,
          format::kUnnamedCache},
    Entry{"model.exporter_version", "exporter",
          "another exporter may trace the model into other operations"},
    Entry{"model.transformers_version", "transformers (export)",
          "another version may define the model with other operations"},
    Entry{"model.torch_version", "torch (export)",
          "another version may trace the model into other operations"},
    Entry{"kvtool", "kvtool", "another version may compute attention with other operations"},
    Entry{"device.type", "device type", "another kind of device has other kernels"},
    Entry{"device.name", "device", "another device has other kernels and adds in another order",
          Scope::kNotBothCpu},
    Entry{"device.provenance.torch_version", "torch",
          "kernels of another version may round differently"},
    Entry{"device.provenance.cpu_model", "CPU", "kernels are chosen by CPU model", Scope::kBothCpu},
    Entry{"device.provenance.cpu_isa", "instruction set",
          "another vector width adds in another order", Scope::kBothCpu},
    Entry{"device.provenance.threads", "CPU threads",
          "another number of threads splits sums at other places", Scope::kBothCpu},
    Entry{"device.provenance.compute_capability", "compute capability",
          "kernels are chosen by the GPU's generation", Scope::kBothCuda},
    Entry{"device.provenance.multiprocessors", "multiprocessors",
          "another number of multiprocessors splits sums at other places", Scope::kBothCuda},
    Entry{"device.provenance.driver_version", "driver",
          "another driver may bring other library kernels", Scope::kBothCuda},
    Entry{"device.provenance.cuda_runtime_version", "CUDA",
          "cuBLAS and cuDNN of another version may choose other kernels", Scope::kBothCuda},
    Entry{"device.provenance.tf32_matmul", "TF32 matrix products",
          "TF32 keeps 10 of float32's 23 fraction bits", Scope::kAlways, "false"},
    Entry{"device.provenance.tf32_cudnn", "TF32 in cuDNN",
          "TF32 keeps 10 of float32's 23 fraction bits", Scope::kBothCuda, "false"},
    Entry{"device.provenance.float32_matmul_precision", "float32 matmul precision",
          "below \"highest\", float32 products are computed in fewer bits", Scope::kAlways,
          "highest"},
    Entry{"device.provenance.deterministic_algorithms", "deterministic algorithms",
          "without them a kernel may add in another order from run to run", Scope::kAlways,
          "false"},
    Entry{"device.provenance.cudnn_deterministic", "deterministic cuDNN",
          "without it a kernel may add in another order from run to run", Scope::kBothCuda,
          "false"},
    Entry{"device.provenance.os_release", "operating system",
          "another system brings other mathematical libraries", Scope::kAlways, kNotCompared},
    Entry{"run.rows", "rows of the batch", "kernels are chosen by the shape of the batch"},
    Entry{"run.padded_length", "padded prompt length",
          "kernels are chosen by the shape of the batch"},
    Entry{"run.cache_capacity", "cache capacity",
          "kernels are chosen by the shape of the batch and its cache"},
};

constexpr const char* kProvenance = "device.provenance.";
constexpr const char* kOtherWhy = "a difference of the environment that kvtool does not judge";

struct DeviceTypes {
  std::optional<std::string> recorded;
  std::optional<std::string> live;

  // A type that is not known may be this one.
  [[nodiscard]] bool both(const char* type) const {
    return recorded.value_or(type) == type && live.value_or(type) == type;
  }
};

bool applies(Scope scope, const DeviceTypes& types) {
  switch (scope) {
    case Scope::kAlways: return true;
    case Scope::kBothCpu: return types.both("cpu");
    case Scope::kBothCuda: return types.both("cuda");
    case Scope::kNotBothCpu: return !types.both("cpu");
  }
  return true;
}

bool applies(format::VariableEffect effect, const DeviceTypes& types) {
  switch (effect) {
    case format::VariableEffect::kNone: return false;
    case format::VariableEffect::kCpu: return applies(Scope::kBothCpu, types);
    case format::VariableEffect::kCuda: return applies(Scope::kBothCuda, types);
    case format::VariableEffect::kAny: return true;
  }
  return true;
}

// Digests are told apart by their beginning.
void shorten_digests(std::string& a, std::string& b) {
  constexpr std::size_t kShown = 12;
  if (a.substr(0, kShown) == b.substr(0, kShown)) return;
  for (std::string* each : {&a, &b}) {
    if (each->size() > kShown) *each = each->substr(0, kShown) + "...";
  }
}

std::optional<ProvenanceDifference> difference(const Entry& entry, const json& recorded,
                                               const json& live) {
  const auto was = format::text_at(recorded, entry.key);
  const auto is = format::text_at(live, entry.key);
  if (!was && !is) return std::nullopt;
  const std::string absent = entry.when_absent == nullptr ? kUnknown : entry.when_absent;
  if (absent == kNotCompared && (!was || !is)) return std::nullopt;
  ProvenanceDifference result{.key = entry.key,
                              .label = entry.label,
                              .recorded = was.value_or(absent),
                              .live = is.value_or(absent),
                              .why = entry.why};
  if (result.recorded == result.live) return std::nullopt;
  if (result.key.ends_with("sha256")) shorten_digests(result.recorded, result.live);
  return result;
}

const json& model_of(const json& meta) {
  static const json kNone;
  const auto found = meta.is_object() ? meta.find("model") : meta.end();
  return meta.is_object() && found != meta.end() ? *found : kNone;
}

// The digest of a config, or else that there is one.
std::string config_name(const json& meta, bool known) {
  if (!known) return kUnknown;
  return format::text_at(meta, "model.config_sha256").value_or("known");
}

void add_config(const Entry& entry, const json& recorded, const json& live,
                std::vector<ProvenanceDifference>& differences) {
  const ConfigComparison configs = compare_configs(model_of(recorded), model_of(live));
  if (configs.recorded_known != configs.live_known) {
    ProvenanceDifference& unknown = differences.emplace_back();
    unknown = {
        .key = entry.key,
        .label = entry.label,
        .recorded = config_name(recorded, configs.recorded_known),
        .live = config_name(live, configs.live_known),
        .why = "one side is from before configs were recorded: another config cannot be told"};
    shorten_digests(unknown.recorded, unknown.live);
  }
  const auto add = [&](const FieldDifference& each, const char* why) {
    differences.push_back({.key = std::string(entry.key) + "." + each.field,
                           .label = std::string(entry.label) + " " + each.field,
                           .recorded = each.recorded,
                           .live = each.live,
                           .why = why});
  };
  for (const FieldDifference& each : configs.other) add(each, entry.why);
  for (const FieldDifference& each : configs.undecided) {
    add(each, "only one version of transformers has this field: it may be another model");
  }
}

bool is_listed(const std::string& key) {
  return std::any_of(kEntries.begin(), kEntries.end(),
                     [&](const Entry& entry) { return key == entry.key; });
}

void add_setting_names(const json& meta, std::set<std::string>& names) {
  for (format::MetaSetting& setting : format::Meta::parse(meta).provenance()) {
    // A name with a dot cannot be told from a path.
    if (setting.name.find('.') == std::string::npos) names.insert(std::move(setting.name));
  }
}

// Settings that a newer kvtool, or someone else's, records.
void add_others(const json& recorded, const json& live,
                std::vector<ProvenanceDifference>& differences) {
  std::set<std::string> names;
  add_setting_names(recorded, names);
  add_setting_names(live, names);
  for (const std::string& name : names) {
    const std::string key = kProvenance + name;
    if (is_listed(key) || is_environment_setting(name)) continue;
    const Entry entry{key.c_str(), name.c_str(), kOtherWhy, Scope::kAlways, kNotCompared};
    if (auto found = difference(entry, recorded, live)) differences.push_back(std::move(*found));
  }
}

}  // namespace

std::vector<ProvenanceDifference> compare_provenance(const json& recorded, const json& live) {
  const DeviceTypes types{format::text_at(recorded, "device.type"),
                          format::text_at(live, "device.type")};
  std::vector<ProvenanceDifference> differences;
  for (const Entry& entry : kEntries) {
    if (!applies(entry.scope, types)) continue;
    if (std::string_view(entry.key) == kConfig) {
      add_config(entry, recorded, live, differences);
      continue;
    }
    if (auto found = difference(entry, recorded, live)) differences.push_back(std::move(*found));
  }
  add_environment(
      recorded, live, [&](format::VariableEffect effect) { return applies(effect, types); },
      differences);
  // Another kind of device has other settings by its nature.
  if (types.both("cpu") || types.both("cuda")) add_others(recorded, live, differences);
  return differences;
}

}  // namespace kvtool::analysis
