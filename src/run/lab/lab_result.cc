#include <algorithm>
#include <cmath>
#include <limits>

#include "kvtool/run/lab.h"

namespace kvtool::run {

std::string_view lab_role_name(LabRole role) {
  switch (role) {
    case LabRole::kFull: return "full";
    case LabRole::kNoise: return "noise";
    case LabRole::kControl: return "control";
    case LabRole::kPolicy: return "policy";
  }
  return "policy";
}

double LabBytes::kept_share() const {
  if (logical_bytes == 0) return std::numeric_limits<double>::quiet_NaN();
  return static_cast<double>(kept_bytes) / static_cast<double>(logical_bytes);
}

double LabBytes::per_token(std::uint64_t bytes) const {
  if (positions == 0) return std::numeric_limits<double>::quiet_NaN();
  return static_cast<double>(bytes) / static_cast<double>(positions);
}

std::optional<double> LabApplied::seen_share() const {
  if (visible_keys == 0) return std::nullopt;
  return static_cast<double>(seen_keys) / static_cast<double>(visible_keys);
}

bool LabResult::checks_passed() const { return std::ranges::all_of(checks, &LabCheck::passed); }

const LabRow* LabResult::full() const {
  const auto found = std::ranges::find(rows, LabRole::kFull, &LabRow::role);
  return found == rows.end() || !found->ran() ? nullptr : &*found;
}

}  // namespace kvtool::run
