// The built-in gates. docs/gates.md justifies every threshold.
#pragma once

#include <string_view>
#include <vector>

#include "kvtool/analysis/gate.h"

namespace kvtool::analysis {

// A rule without bounds drops an inherited one of its name.
[[nodiscard]] bool drops(const GateRule& rule);

struct GateProfile {
  std::string_view name;
  std::string_view description;
  // On top of inherited_rules().
  std::vector<GateRule> rules;         // where noise is measured
  std::vector<GateRule> rules_by_ulp;  // of recordings without a sample of logits

  [[nodiscard]] std::vector<GateRule> rules_for(const GateContext& context) const;
};

[[nodiscard]] const std::vector<GateProfile>& gate_profiles();
// Null when there is none of this name.
[[nodiscard]] const GateProfile* find_gate_profile(std::string_view name);

// What every gate holds unless it says otherwise.
[[nodiscard]] std::vector<GateRule> inherited_rules(const GateContext& context);

// A profile's rules with another mode than inject in its place: each rule of
// inject becomes one of `mode` with the bounds that the profile's pattern has for
// it, and is left out where the pattern has none; one that drops another stays.
[[nodiscard]] std::vector<GateRule> demanding(format::ReplayMode mode,
                                              const std::vector<GateRule>& rules);

// Puts `rules` over `target`: a rule replaces the one of the same name where it
// stands, or follows the others; one without bounds removes it.
void put_rules(const std::vector<GateRule>& rules, std::vector<GateRule>& target);

}  // namespace kvtool::analysis
