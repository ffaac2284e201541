// Tests that run over every cache policy.
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <ostream>
#include <string>
#include <tuple>

#include "kvtool/base/dtype.h"
#include "kvtool/cache/cache_spec.h"
#include "kvtool/format/replay_mode.h"

namespace kvtool::cache {

inline void PrintTo(const PolicyInfo& policy, std::ostream* out) { *out << policy.name; }

}  // namespace kvtool::cache

namespace kvtool::engine {

// What models make rows of that every policy keeps.
inline constexpr std::array kDTypes{DType::kFloat32, DType::kFloat16, DType::kBFloat16};

using PolicyInMode = std::tuple<format::ReplayMode, cache::PolicyInfo>;

// With its fallback options; of pages, with less room than the tests need.
inline cache::CacheSpec spec_of(const cache::PolicyInfo& policy) {
  if (policy.name == "paged") return cache::CacheSpec::parse("paged:page=2,device=6,check=1");
  return cache::CacheSpec::parse(policy.name);
}

// With room for everything: what has to be fetched takes its time.
inline cache::CacheSpec roomy_spec_of(const cache::PolicyInfo& policy) {
  return policy.name == "paged" ? cache::CacheSpec::parse("paged") : spec_of(policy);
}

// Of a policy that takes scales from the prompt, with a given one.
inline cache::CacheSpec unmeasured_spec_of(const cache::PolicyInfo& policy) {
  return policy.name == "fp8" ? cache::CacheSpec::parse("fp8:scale=1") : spec_of(policy);
}

inline std::string name_of_policy(const testing::TestParamInfo<cache::PolicyInfo>& info) {
  return std::string(info.param.name);
}

inline std::string name_of_mode(const testing::TestParamInfo<PolicyInMode>& info) {
  return std::string(format::replay_mode_name(std::get<format::ReplayMode>(info.param))) + "_" +
         std::string(std::get<cache::PolicyInfo>(info.param).name);
}

}  // namespace kvtool::engine
