// One subcommand. A new one is a file that defines it and a line in app.cc.
#pragma once

#include <memory>
#include <string>

#include "terminal.h"

namespace CLI {
class App;
}

namespace kvtool::cli {

class Command {
 public:
  virtual ~Command() = default;
  [[nodiscard]] virtual const char* name() const = 0;
  [[nodiscard]] virtual const char* summary() const = 0;
  // A program starts it, no person: no help or suggestion names it.
  [[nodiscard]] virtual bool hidden() const { return false; }
  // The command that it stands under, above it in the table; null: kvtool itself.
  [[nodiscard]] virtual const char* parent() const { return nullptr; }
  // Declares options, description and examples; the command outlives `app`.
  virtual void declare(CLI::App& app) = 0;
  // Returns the exit status; throws kvtool::Error.
  virtual int execute(Terminal& terminal) = 0;
};

// Its name, for whoever starts it.
inline constexpr const char* kCalibrateWorker = "calibrate-worker";

std::unique_ptr<Command> make_generate_command();
std::unique_ptr<Command> make_save_command();
std::unique_ptr<Command> make_replay_command();
std::unique_ptr<Command> make_run_command();
std::unique_ptr<Command> make_info_command();
std::unique_ptr<Command> make_dump_command();
std::unique_ptr<Command> make_pack_command();
std::unique_ptr<Command> make_unpack_command();
std::unique_ptr<Command> make_diff_command();
std::unique_ptr<Command> make_selftest_command();
std::unique_ptr<Command> make_calibrate_command();
std::unique_ptr<Command> make_calibrate_worker_command();
std::unique_ptr<Command> make_bench_command();
std::unique_ptr<Command> make_bench_cache_command();
std::unique_ptr<Command> make_lab_command();
std::unique_ptr<Command> make_experiment_command();
std::unique_ptr<Command> make_verify_command();
std::unique_ptr<Command> make_recover_command();

}  // namespace kvtool::cli
