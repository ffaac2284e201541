// Ctrl-C: the first SIGINT or SIGTERM asks the running command to stop at the
// next step, the second one ends the process at once.
#pragma once

#include "kvtool/base/stop.h"

namespace kvtool::cli {

inline constexpr int kInterruptedStatus = 130;

// Once, in main.
void install_interrupt_handlers();
// SIGPIPE and SIGXFSZ become errors of the write that met them.
void ignore_write_signals();

// What the handlers ask to stop; tests ask it themselves.
[[nodiscard]] StopSource& interrupt_source() noexcept;

}  // namespace kvtool::cli
