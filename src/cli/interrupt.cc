#include "kvtool/cli/interrupt.h"

#include <csignal>

namespace kvtool::cli {
namespace {

volatile std::sig_atomic_t g_interrupted = 0;

void on_signal(int /*signal*/) { g_interrupted = 1; }

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

bool interrupted() noexcept { return g_interrupted != 0; }

void throw_if_interrupted() {
  if (interrupted()) throw Interrupted();
}

void set_interrupted(bool value) noexcept { g_interrupted = value ? 1 : 0; }

}  // namespace kvtool::cli
