// The command line as a whole.
#pragma once

#include "terminal.h"

namespace kvtool::cli {

// Parses, runs one subcommand and returns the process's exit status. Never throws.
int run_app(int argc, const char* const* argv, Terminal& terminal);

}  // namespace kvtool::cli
