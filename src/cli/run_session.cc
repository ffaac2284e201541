#include "run_session.h"

#include <filesystem>

#include "idle_options.h"
#include "kvtool/base/error.h"
#include "kvtool/run/generation.h"
#include "kvtool/run/model_file.h"
#include "kvtool/run/paths.h"
#include "kvtool/run/replay.h"
#include "reporting.h"

namespace kvtool::cli {
namespace {

namespace fs = std::filesystem;

// Replays what was just recorded, on the same model files.
std::string replay_command(const run::Request& request, const run::Summary& summary) {
  std::string command = "kvtool replay --from " + run::shell_quoted(summary.saved_directory);
  for (const std::string& given : request.models) {
    const run::ModelFile model = run::resolve_model(given, request.config_folder);
    command += " --model " + run::shell_quoted(model.path.string());
  }
  if (request.batch_sizes.size() > 1) {
    command += " --batch-size ";
    for (std::size_t i = 0; i < request.batch_sizes.size(); ++i) {
      command += (i == 0 ? "" : ",") + std::to_string(request.batch_sizes[i]);
    }
  }
  if (request.device != "auto") command += " --device " + request.device;
  return command;
}

}  // namespace

void check_given(const run::Request& request, const std::string& command) {
  if (request.prompts.empty()) {
    throw_usage(
        "no prompt: give --prompt, --prompts or \"prompts\" in the configuration, for "
        "example\n    kvtool " +
        command + " --model models/MODEL.pt --prompt \"What is the capital of France?\"");
  }
  if (!request.models.empty()) return;
  std::string message =
      "no model: give --model models/MODEL.pt, or \"models\" in the configuration";
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator("models", ignored)) {
    if (entry.path().extension() == ".pt") {
      message += "; there is " + entry.path().string();
      break;
    }
  }
  throw_usage(message + ". A Hugging Face model is exported with\n    " +
              run::export_command("HF_ID"));
}

int run_session(const Terminal& terminal, const std::string& command, const RunOptions& options,
                Action action) {
  const Settings settings = resolve_settings(options, action);
  const run::Request& request = settings.request;
  refuse_idle_options(options, {.action = action, .save = request.save, .replay = settings.replay});
  NextCommand next_command;
  if (request.save && !settings.replay) {
    next_command = [&request](const run::Summary& summary) {
      return replay_command(request, summary);
    };
  }
  return with_observer(
      terminal, reporting_of(command, options),
      [&](run::Observer& observer) {
        if (settings.replay) {
          return run::run_replay(request, terminal.services, observer).failed() ? 1 : 0;
        }
        check_given(request, command);
        run::run_generation(request, terminal.services, observer);
        return 0;
      },
      next_command);
}

}  // namespace kvtool::cli
