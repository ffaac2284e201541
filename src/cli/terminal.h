// What the commands take from outside: streams, and all that a run takes. Tests run whole
// commands with others.
#pragma once

#include <iosfwd>

#include "kvtool/run/services.h"

namespace kvtool::cli {

struct Terminal {
  std::istream& in;   // what another program says
  std::ostream& out;  // results
  std::ostream& err;  // logs and progress
  bool in_is_terminal = false;
  bool out_is_terminal = false;
  bool err_is_terminal = false;
  bool no_color = false;
  run::Services services;
};

// The process's own streams and services; Ctrl-C stops a run.
[[nodiscard]] Terminal system_terminal();

// Error kEnvironment when something of the results did not get out: a full disk, a closed pipe.
void require_written(const Terminal& terminal);

}  // namespace kvtool::cli
