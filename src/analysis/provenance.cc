#include "kvtool/analysis/provenance.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string_view>
#include <utility>

#include "environment.h"
#include "kvtool/analysis/model_config.h"
#include "kvtool/format/meta.h"
#include "provenance_table.h"

namespace kvtool::analysis {
namespace {

using nlohmann::json;

constexpr const char* kOtherWhy = "a difference of the environment that kvtool does not judge";

struct DeviceTypes {
  std::optional<std::string> recorded;
  std::optional<std::string> live;

  // A type that is not known may be this one.
  [[nodiscard]] bool both(const char* type) const {
    return recorded.value_or(type) == type && live.value_or(type) == type;
  }
};

bool applies(ProvenanceScope scope, const DeviceTypes& types) {
  switch (scope) {
    case ProvenanceScope::kAlways: return true;
    case ProvenanceScope::kBothCpu: return types.both("cpu");
    case ProvenanceScope::kBothCuda: return types.both("cuda");
    case ProvenanceScope::kNotBothCpu: return !types.both("cpu");
  }
  return true;
}

bool applies(format::VariableEffect effect, const DeviceTypes& types) {
  switch (effect) {
    case format::VariableEffect::kNone: return false;
    case format::VariableEffect::kCpu: return applies(ProvenanceScope::kBothCpu, types);
    case format::VariableEffect::kCuda: return applies(ProvenanceScope::kBothCuda, types);
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

std::optional<ProvenanceDifference> difference(const ProvenanceEntry& entry, const json& recorded,
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
                              .why = entry.why,
                              .part = entry.part};
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

void add_config(const ProvenanceEntry& entry, const json& recorded, const json& live,
                std::vector<ProvenanceDifference>& differences) {
  const ConfigComparison configs = compare_configs(model_of(recorded), model_of(live));
  if (configs.recorded_known != configs.live_known) {
    ProvenanceDifference& unknown = differences.emplace_back();
    unknown = {
        .key = entry.key,
        .label = entry.label,
        .recorded = config_name(recorded, configs.recorded_known),
        .live = config_name(live, configs.live_known),
        .why = "one side is from before configs were recorded: another config cannot be told",
        .part = entry.part};
    shorten_digests(unknown.recorded, unknown.live);
  }
  const auto add = [&](const FieldDifference& each, const char* why) {
    differences.push_back({.key = std::string(entry.key) + "." + each.field,
                           .label = std::string(entry.label) + " " + each.field,
                           .recorded = each.recorded,
                           .live = each.live,
                           .why = why,
                           .part = entry.part});
  };
  for (const FieldDifference& each : configs.other) add(each, entry.why);
  for (const FieldDifference& each : configs.undecided) {
    add(each, "only one version of transformers has this field: it may be another model");
  }
}

bool is_listed(const std::string& key) {
  return std::any_of(kProvenanceEntries.begin(), kProvenanceEntries.end(),
                     [&](const ProvenanceEntry& entry) { return key == entry.key; });
}

void add_others(const json& recorded, const json& live,
                std::vector<ProvenanceDifference>& differences) {
  std::set<std::string> names = unlisted_settings(recorded);
  names.merge(unlisted_settings(live));
  for (const std::string& name : names) {
    const std::string key = kProvenancePrefix + name;
    const ProvenanceEntry entry{
        key.c_str(), name.c_str(), kOtherWhy, ProvenancePart::kPolicy, ProvenanceScope::kAlways,
        kNotCompared};
    if (auto found = difference(entry, recorded, live)) differences.push_back(std::move(*found));
  }
}

}  // namespace

std::string_view part_name(ProvenancePart part) {
  switch (part) {
    case ProvenancePart::kModel: return "model";
    case ProvenancePart::kPolicy: return "policy";
    case ProvenancePart::kPlatform: return "platform";
    case ProvenancePart::kSystem: return "system";
  }
  return "policy";
}

std::set<std::string> unlisted_settings(const json& meta) {
  std::set<std::string> names;
  for (format::MetaSetting& setting : format::Meta::parse(meta).provenance()) {
    // A name with a dot cannot be told from a path.
    if (setting.name.find('.') != std::string::npos) continue;
    if (is_listed(kProvenancePrefix + setting.name) || is_environment_setting(setting.name)) {
      continue;
    }
    names.insert(std::move(setting.name));
  }
  return names;
}

std::vector<ProvenanceDifference> compare_provenance(const json& recorded, const json& live) {
  const DeviceTypes types{format::text_at(recorded, "device.type"),
                          format::text_at(live, "device.type")};
  std::vector<ProvenanceDifference> differences;
  for (const ProvenanceEntry& entry : kProvenanceEntries) {
    if (!applies(entry.scope, types)) continue;
    if (std::string_view(entry.key) == kConfigKey) {
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
