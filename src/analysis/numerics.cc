#include "kvtool/analysis/numerics.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "environment.h"
#include "kvtool/format/digest.h"
#include "kvtool/format/meta.h"
#include "provenance_table.h"

namespace kvtool::analysis {
namespace {

using nlohmann::json;

// Collects the rows of one record.
class NumericsReader {
 public:
  explicit NumericsReader(const json& meta)
      : meta_(meta), type_(format::text_at(meta, "device.type")) {}

  Numerics read() {
    for (const ProvenanceEntry& entry : kProvenanceEntries) take(entry);
    take_variables();
    for (const std::string& name : unlisted_settings(meta_)) {
      const std::string key = kProvenancePrefix + name;
      numerics_.policy.entries[key] = format::text_at(meta_, key).value_or("");
    }
    // Nor is it known then which rows there are.
    if (!type_) numerics_.policy.missing.emplace_back("device type");
    seal(numerics_.policy);
    seal(numerics_.platform);
    return std::move(numerics_);
  }

 private:
  [[nodiscard]] bool is(const char* type) const { return type_ == type; }

  [[nodiscard]] bool reaches(ProvenanceScope scope) const {
    switch (scope) {
      case ProvenanceScope::kAlways: return true;
      case ProvenanceScope::kBothCpu: return is("cpu");
      case ProvenanceScope::kBothCuda: return is("cuda");
      case ProvenanceScope::kNotBothCpu: return type_ && !is("cpu");
    }
    return true;
  }

  [[nodiscard]] bool reaches(format::VariableEffect effect) const {
    switch (effect) {
      case format::VariableEffect::kNone: return false;
      case format::VariableEffect::kCpu: return is("cpu");
      case format::VariableEffect::kCuda: return is("cuda");
      case format::VariableEffect::kAny: return true;
    }
    return true;
  }

  NumericList* list_of(ProvenancePart part) {
    if (part == ProvenancePart::kPolicy) return &numerics_.policy;
    return part == ProvenancePart::kPlatform ? &numerics_.platform : nullptr;
  }

  void take(const ProvenanceEntry& entry) {
    NumericList* list = list_of(entry.part);
    if (list == nullptr || !reaches(entry.scope)) return;
    const std::optional<std::string> value = format::text_at(meta_, entry.key);
    if (!value && entry.when_absent == nullptr) {
      list->missing.emplace_back(entry.label);
      return;
    }
    const std::string text = value ? *value : entry.when_absent;
    if (value || text != kNotCompared) list->entries[entry.key] = text;
  }

  void take_variables() {
    auto set = set_variables(meta_, [this](auto effect) { return reaches(effect); });
    if (!set) {
      numerics_.policy.missing.emplace_back("environment variables");
      return;
    }
    numerics_.policy.entries.merge(*set);
  }

  static void seal(NumericList& list) {
    if (!list.known()) return;
    list.digest =
        format::text_digest(json(list.entries).dump(-1, ' ', true, json::error_handler_t::replace));
  }

  const json& meta_;
  std::optional<std::string> type_;
  Numerics numerics_;
};

json list_member(const NumericList& list) {
  json member = {{"entries", list.entries}};
  if (list.known()) {
    member["digest"] = list.digest;
  } else {
    member["missing"] = list.missing;
  }
  return member;
}

bool holds(const std::vector<std::string>& labels, const std::string& label) {
  return std::ranges::find(labels, label) != labels.end();
}

void add_new(const std::vector<std::string>& from, std::vector<std::string>& to) {
  for (const std::string& label : from) {
    if (!holds(to, label)) to.push_back(label);
  }
}

NumericAgreement agreement_of(ProvenancePart part, const NumericList& recorded,
                              const NumericList& live,
                              const std::vector<ProvenanceDifference>& differences) {
  NumericAgreement agreement{.equal = recorded.known() && recorded.digest == live.digest,
                             .recorded = recorded.digest,
                             .live = live.digest,
                             .missing = recorded.missing};
  add_new(live.missing, agreement.missing);
  for (const ProvenanceDifference& each : differences) {
    if (each.part == part && !holds(agreement.missing, each.label)) {
      add_new({each.label}, agreement.differing);
    }
  }
  return agreement;
}

}  // namespace

Numerics numerics_of(const json& meta) { return NumericsReader(meta).read(); }

json numerics_member(const Numerics& numerics) {
  return {{"policy", list_member(numerics.policy)}, {"platform", list_member(numerics.platform)}};
}

std::optional<bool> NumericAgreement::same() const {
  if (equal) return true;
  return differing.empty() ? std::nullopt : std::optional(false);
}

void NumericAgreement::add(const NumericAgreement& other) {
  equal = equal && other.equal;
  if (recorded != other.recorded) recorded.clear();
  if (live != other.live) live.clear();
  add_new(other.differing, differing);
  add_new(other.missing, missing);
}

NumericsAgreement compare_numerics(const json& recorded, const json& live,
                                   const std::vector<ProvenanceDifference>& differences) {
  const Numerics was = numerics_of(recorded);
  const Numerics is = numerics_of(live);
  return {
      .policy = agreement_of(ProvenancePart::kPolicy, was.policy, is.policy, differences),
      .platform = agreement_of(ProvenancePart::kPlatform, was.platform, is.platform, differences)};
}

}  // namespace kvtool::analysis
