#include "terminal.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <utility>

#include "command.h"
#include "interrupt.h"
#include "kvtool/base/error.h"
#include "kvtool/base/subprocess.h"

namespace kvtool::cli {
namespace {

// This very program again.
ProcessResult calibration_worker(std::string_view task, const StopToken& stop) {
  const std::string program = std::filesystem::read_symlink("/proc/self/exe").string();
  return run_process({program, kCalibrateWorker}, task, stop);
}

}  // namespace

Terminal system_terminal() {
  const char* no_color = std::getenv("NO_COLOR");
  run::Services services = run::system_services(interrupt_source().token());
  services.worker = [stop = services.stop](std::string_view task) {
    return calibration_worker(task, stop);
  };
  return {.in = std::cin,
          .out = std::cout,
          .err = std::cerr,
          .in_is_terminal = ::isatty(STDIN_FILENO) == 1,
          .out_is_terminal = ::isatty(STDOUT_FILENO) == 1,
          .err_is_terminal = ::isatty(STDERR_FILENO) == 1,
          .no_color = no_color != nullptr && *no_color != '\0',
          .services = std::move(services)};
}

void require_written(const Terminal& terminal) {
  terminal.out.flush();
  if (!terminal.out) throw_environment("standard output could not be written");
}

}  // namespace kvtool::cli
