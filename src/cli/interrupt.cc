#include "interrupt.h"

#include <csignal>

namespace kvtool::cli {
namespace {

// Constructed before main and never destroyed before a handler could run.
constinit StopSource g_stop;

void on_signal(int /*signal*/) { g_stop.request_stop(); }

}  // namespace

void install_interrupt_handlers() {
  struct sigaction action{};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  // After the first signal the default action is back, so that a second Ctrl-C
  // ends a process that is busy loading a model. No SA_RESTART: poll() must return.
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

void ignore_write_signals() {
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);
}

StopSource& interrupt_source() noexcept { return g_stop; }

}  // namespace kvtool::cli
