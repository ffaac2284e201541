// What the commands take from outside, so that tests can run them whole with
// another engine, clock and terminal.
#pragma once

#include <functional>
#include <iosfwd>
#include <memory>
#include <string>

#include "kvtool/base/file.h"
#include "kvtool/cli/paths.h"
#include "kvtool/cli/prompt_encoder.h"
#include "kvtool/engine/api.h"

namespace kvtool::cli {

struct Services {
  std::ostream& out;  // results
  std::ostream& err;  // logs and progress
  bool out_is_terminal = false;
  bool err_is_terminal = false;
  bool no_color = false;
  std::function<std::unique_ptr<engine::Engine>(const std::string& cpu_isa,
                                                const engine::EngineOptions& options)>
      open_engine;
  EncoderProcess encoder;
  std::function<WallTime()> now;
  // Where recordings are written.
  FileSystem& files = posix_file_system();
};

// The process's own streams, the engine library (or, in a build without it, the
// error that says so) and the Python helper.
[[nodiscard]] Services system_services();

}  // namespace kvtool::cli
