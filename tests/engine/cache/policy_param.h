// Tests that run over every cache policy.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <ostream>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "kvtool/base/dtype.h"
#include "kvtool/cache/cache_plan.h"
#include "kvtool/cache/cache_spec.h"
#include "kvtool/cache/key_budget.h"
#include "kvtool/cache/kivi_settings.h"
#include "kvtool/format/replay_mode.h"

namespace kvtool::engine {

// What models make rows of that every policy keeps.
inline constexpr std::array kDTypes{DType::kFloat32, DType::kFloat16, DType::kBFloat16};

// A policy of the table, or several of them in one spec.
struct PolicyCase {
  std::string name;
  // With its fallback options, or where they let everything be seen or held in such short inputs
  // as tests have, with others.
  cache::CacheSpec spec;
  // Of one that selects: with which all is seen.
  cache::CacheSpec covering;
  // With room for everything: what has to be fetched takes its time.
  cache::CacheSpec roomy;
  // Of one that takes scales from the prompt, with given ones.
  cache::CacheSpec unmeasured;
  // With which all of it acts within a dozen positions.
  cache::CacheSpec busy;
};

inline void PrintTo(const PolicyCase& policy, std::ostream* out) { *out << policy.name; }

using PolicyInMode = std::tuple<format::ReplayMode, PolicyCase>;

inline const cache::CacheSpec& spec_of(const PolicyCase& policy) { return policy.spec; }
inline const cache::CacheSpec& covering_spec_of(const PolicyCase& policy) {
  return policy.covering;
}
inline const cache::CacheSpec& roomy_spec_of(const PolicyCase& policy) { return policy.roomy; }
inline const cache::CacheSpec& unmeasured_spec_of(const PolicyCase& policy) {
  return policy.unmeasured;
}

inline const cache::CacheSpec& busy_spec_of(const PolicyCase& policy) { return policy.busy; }

// Whether its queries see a part of their keys.
inline bool selects(const PolicyCase& policy) { return cache::KeyBudget(policy.spec).selects(0); }

// Whether it has pages that wait in host memory.
inline bool pages_out(const PolicyCase& policy) { return policy.spec.policy() == "paged"; }

// Bits of a number as it keeps every row; 0: as the model made it.
inline std::uint32_t element_bits(const PolicyCase& policy) {
  return cache::storage_of(policy.spec).element_bits;
}

// Whether it keeps K or V of a layer as the model made it, because its options say so.
inline bool leaves_alone(const PolicyCase& policy, std::uint64_t layer, bool value) {
  const cache::CacheSpec store = cache::store_of(policy.spec);
  if (store.policy() != "kivi") return false;
  const cache::KiviSettings settings = cache::kivi_settings(store);
  return (value ? settings.value_bits_of(layer) : settings.key_bits_of(layer)) == 0;
}

// The policy that keeps its rows.
inline std::string store_name(const PolicyCase& policy) {
  return cache::store_of(policy.spec).policy();
}

inline PolicyCase policy_case(std::string name, const std::string& spec,
                              const std::string& covering = "", const std::string& roomy = "",
                              const std::string& unmeasured = "") {
  const auto parsed = [&](const std::string& text) {
    return cache::CacheSpec::parse(text.empty() ? spec : text);
  };
  // As a name of a test may be written.
  std::replace(name.begin(), name.end(), '-', '_');
  const std::string busy = name == "kivi" ? "kivi:group=2,residual=2,sinks=1" : spec;
  return {std::move(name), parsed(spec),       parsed(covering),
          parsed(roomy),   parsed(unmeasured), parsed(busy)};
}

inline PolicyCase case_of(const cache::PolicyInfo& policy) {
  const std::string name(policy.name);
  if (name == "window") return policy_case(name, "window:sinks=1,recent=3", "window");
  if (name == "paged") return policy_case(name, "paged:page=2,device=6,check=1", "", "paged");
  if (name == "fp8") return policy_case(name, name, "", "", "fp8:scale=1");
  if (!cache::CacheSpec::parse(name).has("budget")) return policy_case(name, name);
  return policy_case(name, name + ":page=2,budget=2,sinks=0,recent=1,dense=0",
                     name + ":page=2,budget=100%,sinks=0,recent=1,dense=0");
}

// Every policy of the table, and some of what they make together.
inline std::vector<PolicyCase> policy_cases() {
  std::vector<PolicyCase> cases;
  for (const cache::PolicyInfo& policy : cache::policies()) cases.push_back(case_of(policy));
  PolicyCase part = policy_case("kivi_part", "kivi:v=none,layers=1");
  part.busy = cache::CacheSpec::parse("kivi:v=none,group=2,residual=2,sinks=1,layers=1");
  cases.push_back(std::move(part));
  cases.push_back(policy_case("window_cache", "window:sinks=1,recent=3,positions=cache",
                              "window:positions=cache"));
  const std::string paged = "paged:page=2,device=6,check=1";
  cases.push_back(policy_case("paged_int8", paged + ",codec=int8", "", "paged:codec=int8"));
  cases.push_back(policy_case("paged_kivi", "paged:page=32,device=6,check=1,codec=kivi4", "",
                              "paged:page=32,codec=kivi4"));
  const std::string few = ",select=quest,budget=2,sinks=0,recent=1,dense=0";
  const std::string all = ",select=quest,budget=100%,sinks=0,recent=1,dense=0";
  cases.push_back(policy_case("paged_quest", paged + few, paged + all, "paged:page=2" + few));
  cases.push_back(policy_case("paged_predictive", paged + ",residency=predictive" + few,
                              paged + ",residency=predictive" + all, "paged:page=2" + few));
  cases.push_back(policy_case("paged_int8_quest", paged + ",codec=int8" + few,
                              paged + ",codec=int8" + all, "paged:page=2,codec=int8" + few));
  return cases;
}

inline std::string name_of_policy(const testing::TestParamInfo<PolicyCase>& info) {
  return info.param.name;
}

inline std::string name_of_mode(const testing::TestParamInfo<PolicyInMode>& info) {
  return std::string(format::replay_mode_name(std::get<format::ReplayMode>(info.param))) + "_" +
         std::get<PolicyCase>(info.param).name;
}

}  // namespace kvtool::engine
