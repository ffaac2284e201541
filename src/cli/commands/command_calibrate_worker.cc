#include <CLI/CLI.hpp>
#include <iterator>
#include <ostream>

#include "command.h"
#include "kvtool/base/error.h"
#include "kvtool/run/calibration_worker.h"

namespace kvtool::cli {
namespace {

// Started by `calibrate` alone; see calibration_worker() in terminal.cc.
class CalibrateWorkerCommand : public Command {
 public:
  [[nodiscard]] const char* name() const override { return kCalibrateWorker; }
  [[nodiscard]] const char* summary() const override {
    return "One replay of `kvtool calibrate`, which starts this itself";
  }
  [[nodiscard]] bool hidden() const override { return true; }

  void declare(CLI::App& app) override {
    app.footer(
        "The task, a line of JSON, comes from `kvtool calibrate` on standard input; the answer "
        "goes "
        "to\nstandard output. There is nothing to do here by hand: see kvtool calibrate --help");
  }

  int execute(Terminal& terminal) override {
    std::string task;
    if (!terminal.in_is_terminal) task.assign(std::istreambuf_iterator<char>(terminal.in), {});
    if (task.empty()) {
      throw_usage(std::string(kCalibrateWorker) +
                  " is given its task by 'kvtool calibrate' on standard input, and there is none: "
                  "run kvtool calibrate instead, see kvtool calibrate --help");
    }
    terminal.out << run::do_worker_task(task, terminal.services) << std::flush;
    return 0;
  }
};

}  // namespace

std::unique_ptr<Command> make_calibrate_worker_command() {
  return std::make_unique<CalibrateWorkerCommand>();
}

}  // namespace kvtool::cli
