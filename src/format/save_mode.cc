#include "kvtool/format/save_mode.h"

namespace kvtool::format {

std::string_view save_mode_name(SaveMode mode) {
  for (const SaveModeInfo& info : kSaveModes) {
    if (info.mode == mode) return info.name;
  }
  return "unknown";
}

std::optional<SaveMode> parse_save_mode(std::string_view name) {
  for (const SaveModeInfo& info : kSaveModes) {
    if (info.name == name) return info.mode;
  }
  return std::nullopt;
}

}  // namespace kvtool::format
