// Ctrl-C: the first SIGINT or SIGTERM asks the running command to stop at the
// next step, the second one ends the process at once.
#pragma once

#include <exception>

namespace kvtool::cli {

inline constexpr int kInterruptedStatus = 130;

// Unwinds a command after the first signal. Not a kvtool::Error: nothing failed.
class Interrupted : public std::exception {
 public:
  [[nodiscard]] const char* what() const noexcept override { return "interrupted"; }
};

// Once, in main.
void install_interrupt_handlers();
// SIGPIPE and SIGXFSZ become errors of the write that met them.
void ignore_write_signals();

[[nodiscard]] bool interrupted() noexcept;
void throw_if_interrupted();
// For tests.
void set_interrupted(bool value) noexcept;

}  // namespace kvtool::cli
