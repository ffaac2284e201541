#include "kvtool/cli/services.h"

#include <unistd.h>

#include <cstdlib>
#include <iostream>

#include "kvtool/base/error.h"
#ifdef KVTOOL_HAVE_ENGINE
#include "kvtool/engine/loader.h"
#endif

namespace kvtool::cli {
namespace {

std::unique_ptr<engine::Engine> open_engine([[maybe_unused]] const std::string& cpu_isa,
                                            [[maybe_unused]] const engine::EngineOptions& options) {
#ifdef KVTOOL_HAVE_ENGINE
  engine::set_cpu_isa(cpu_isa);
  return engine::load_engine(options);
#else
  throw_environment(
      "this kvtool was built without its engine (KVTOOL_ENGINE=OFF) and cannot run a model; info, "
      "dump, diff, verify and recover work. Build it with -DKVTOOL_ENGINE=ON and an installed "
      "torch");
#endif
}

}  // namespace

Services system_services() {
  const char* no_color = std::getenv("NO_COLOR");
  return {.out = std::cout,
          .err = std::cerr,
          .out_is_terminal = ::isatty(STDOUT_FILENO) == 1,
          .err_is_terminal = ::isatty(STDERR_FILENO) == 1,
          .no_color = no_color != nullptr && *no_color != '\0',
          .open_engine = open_engine,
          .encoder = run_encoder,
          .now = std::chrono::system_clock::now};
}

}  // namespace kvtool::cli
