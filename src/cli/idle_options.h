// Options of the command line that would do nothing in this run. A configuration may hold what
// other commands need; who types an option expects it to matter.
#pragma once

#include "options.h"
#include "settings.h"

namespace kvtool::cli {

// What RunOptions and the configuration ask for together.
struct Purpose {
  Action action = Action::kGenerate;
  bool save = false;
  bool replay = false;
};

// Error kUsage: names the first one, why it does nothing and what to do.
void refuse_idle_options(const RunOptions& options, const Purpose& purpose);

// Likewise of a command that replays --from, or else what it records now (which looks after prompts
// itself).
void refuse_idle_reference_options(const RunOptions& options);

}  // namespace kvtool::cli
