// Tests that run over every cache policy.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <ostream>
#include <string>
#include <string_view>
#include <tuple>

#include "kvtool/base/dtype.h"
#include "kvtool/cache/cache_spec.h"
#include "kvtool/cache/key_budget.h"
#include "kvtool/format/replay_mode.h"

namespace kvtool::cache {

inline void PrintTo(const PolicyInfo& policy, std::ostream* out) { *out << policy.name; }

}  // namespace kvtool::cache

namespace kvtool::engine {

// What models make rows of that every policy keeps.
inline constexpr std::array kDTypes{DType::kFloat32, DType::kFloat16, DType::kBFloat16};

using PolicyInMode = std::tuple<format::ReplayMode, cache::PolicyInfo>;

// With its fallback options, or where they let everything be seen in such short inputs as tests
// have, with others.
inline cache::CacheSpec spec_of(const cache::PolicyInfo& policy) {
  const std::string name(policy.name);
  if (name == "window") return cache::CacheSpec::parse("window:sinks=1,recent=3");
  if (name == "paged") return cache::CacheSpec::parse("paged:page=2,device=6,check=1");
  const cache::CacheSpec spec = cache::CacheSpec::parse(name);
  if (!spec.has("budget")) return spec;
  return cache::CacheSpec::parse(name + ":page=2,budget=2,sinks=0,recent=1,dense=0");
}

// Whether its queries see a part of their keys.
inline bool selects(const cache::PolicyInfo& policy) {
  return cache::KeyBudget(spec_of(policy)).selects(0);
}

// Of a policy that selects: with which all is seen.
inline cache::CacheSpec covering_spec_of(const cache::PolicyInfo& policy) {
  if (!selects(policy)) return spec_of(policy);
  const std::string name(policy.name);
  const cache::CacheSpec spec = cache::CacheSpec::parse(name);
  if (!spec.has("budget")) return spec;
  return cache::CacheSpec::parse(name + ":page=2,budget=100%,sinks=0,recent=1,dense=0");
}

// With which all of it acts within a dozen positions.
inline cache::CacheSpec busy_spec_of(const cache::PolicyInfo& policy) {
  return policy.name == "kivi" ? cache::CacheSpec::parse("kivi:group=2,residual=2,sinks=1")
                               : spec_of(policy);
}

// With room for everything: what has to be fetched takes its time.
inline cache::CacheSpec roomy_spec_of(const cache::PolicyInfo& policy) {
  return policy.name == "paged" ? cache::CacheSpec::parse("paged") : spec_of(policy);
}

// Of a policy that takes scales from the prompt, with a given one.
inline cache::CacheSpec unmeasured_spec_of(const cache::PolicyInfo& policy) {
  return policy.name == "fp8" ? cache::CacheSpec::parse("fp8:scale=1") : spec_of(policy);
}

// As a name of a test may be written.
inline std::string test_name_of(std::string_view name) {
  std::string written(name);
  std::replace(written.begin(), written.end(), '-', '_');
  return written;
}

inline std::string name_of_policy(const testing::TestParamInfo<cache::PolicyInfo>& info) {
  return test_name_of(info.param.name);
}

inline std::string name_of_mode(const testing::TestParamInfo<PolicyInMode>& info) {
  return std::string(format::replay_mode_name(std::get<format::ReplayMode>(info.param))) + "_" +
         test_name_of(std::get<cache::PolicyInfo>(info.param).name);
}

}  // namespace kvtool::engine
