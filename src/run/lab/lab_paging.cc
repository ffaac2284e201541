#include "kvtool/run/lab_paging.h"

namespace kvtool::run {

std::optional<double> LabPaging::stall_share() const {
  const std::optional<double> waited = pages.waited_seconds();
  if (pages.demands == 0 || !waited || !(decode_seconds > 0.0)) return std::nullopt;
  return *waited / decode_seconds;
}

std::optional<double> LabPaging::ghost_stall_share() const {
  if (!ghost || !ghost->ran() || !(decode_seconds > 0.0)) return std::nullopt;
  return (decode_seconds - ghost->decode_seconds) / decode_seconds;
}

}  // namespace kvtool::run
