// The whole of generate, save, replay and run.
#pragma once

#include <string>

#include "options.h"
#include "settings.h"
#include "terminal.h"

namespace kvtool::cli {

// What a run that generates would refuse too, in the words of who typed `kvtool COMMAND`.
// Error kUsage.
void check_given(const run::Request& request, const std::string& command);

// Exit status 0, or 1 when a comparison failed.
int run_session(const Terminal& terminal, const std::string& command, const RunOptions& options,
                Action action);

}  // namespace kvtool::cli
