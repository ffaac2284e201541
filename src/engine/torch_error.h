// Translates torch's exceptions at the engine's edge.
#pragma once

#include <string>

#include "kvtool/base/error.h"

namespace kvtool::engine {

// For a catch block: throws the exception in flight as a kvtool::Error that starts with
// `what`. kvtool's own exceptions stay as they are. Where memory, the device or what this
// torch can do is at fault, it is kEnvironment, anything else `otherwise`.
[[noreturn]] void throw_translated(const std::string& what, ErrorCode otherwise);

// Runs `body`. `otherwise` is kEnvironment where torch judges what a user gave it: a file.
template <typename Body>
auto translate_torch_errors(const std::string& what, Body&& body,
                            ErrorCode otherwise = ErrorCode::kInternal) -> decltype(body()) {
  try {
    return body();
  } catch (...) {
    throw_translated(what, otherwise);
  }
}

}  // namespace kvtool::engine
