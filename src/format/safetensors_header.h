// The header of a safetensors file, which two writers of this room make.
#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>

#include "kvtool/base/checked.h"

namespace kvtool::format {

// Filled up with spaces to a multiple of eight bytes, so that tensors behind it can be
// aligned. Bytes that are no UTF-8 are replaced.
inline std::string safetensors_header_text(const nlohmann::ordered_json& header) {
  std::string text = header.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  constexpr std::size_t kAlignment = 8;
  text.resize(align_up(text.size(), kAlignment), ' ');
  return text;
}

}  // namespace kvtool::format
