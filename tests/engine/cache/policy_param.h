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

// With its fallback options.
inline cache::CacheSpec spec_of(const cache::PolicyInfo& policy) {
  return cache::CacheSpec::parse(policy.name);
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
