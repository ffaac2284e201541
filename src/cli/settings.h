// The request of one run: command line over configuration over defaults.
#pragma once

#include <string>

#include "kvtool/run/request.h"
#include "options.h"

namespace kvtool::cli {

struct Settings {
  run::Request request;
  bool replay = false;  // otherwise generate, or save
};

// What a subcommand does whatever the configuration says.
enum class Action { kGenerate, kSave, kReplay, kAsConfigured };

// Of a command that takes no configuration, whose prompts are its own.
[[nodiscard]] run::Request request_of(const RunOptions& options);

// Reads the configuration file. Error kUsage.
[[nodiscard]] Settings resolve_settings(const RunOptions& options, Action action);

}  // namespace kvtool::cli
