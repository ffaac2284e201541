#include "terminal.h"

#include <unistd.h>

#include <cstdlib>
#include <iostream>

#include "interrupt.h"

namespace kvtool::cli {

Terminal system_terminal() {
  const char* no_color = std::getenv("NO_COLOR");
  return {.out = std::cout,
          .err = std::cerr,
          .out_is_terminal = ::isatty(STDOUT_FILENO) == 1,
          .err_is_terminal = ::isatty(STDERR_FILENO) == 1,
          .no_color = no_color != nullptr && *no_color != '\0',
          .services = run::system_services(interrupt_source().token())};
}

}  // namespace kvtool::cli
