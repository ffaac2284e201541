// Finds the gate that a command line or a configuration names.
#pragma once

#include <string>

#include "kvtool/analysis/gate.h"

namespace kvtool::run {

// A built-in gate's name or the path of a gate file (JSON, comments allowed).
// Error kUsage: no such gate, unreadable or malformed file.
[[nodiscard]] analysis::GateSpec load_gate(const std::string& name_or_path);

}  // namespace kvtool::run
