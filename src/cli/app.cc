#include "app.h"

#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <iostream>
#include <ostream>
#include <vector>

#include "command.h"
#include "failure.h"
#include "help_formatter.h"
#include "kvtool/base/error.h"
#include "kvtool/base/nearest.h"
#include "kvtool/base/text.h"

namespace kvtool::cli {
namespace {

constexpr int kUsageStatus = static_cast<int>(ErrorCode::kUsage);

using CommandFactory = std::unique_ptr<Command> (*)();
constexpr CommandFactory kCommands[] = {make_generate_command,  make_save_command,
                                        make_replay_command,    make_run_command,
                                        make_info_command,      make_dump_command,
                                        make_pack_command,      make_unpack_command,
                                        make_verify_command,    make_recover_command,
                                        make_diff_command,      make_selftest_command,
                                        make_calibrate_command, make_calibrate_worker_command,
                                        make_bench_command,     make_bench_cache_command,
                                        make_lab_command,       make_experiment_command};

constexpr const char* kDescription =
    "kvtool records an LLM's greedy generation together with its KV cache on one\n"
    "device, and shows on another whether it generates the same tokens, or exactly\n"
    "where, by how much and why it does not.";

constexpr const char* kFooter = R"(First steps:
    python3 tools/export_model.py --model HuggingFaceTB/SmolLM2-135M-Instruct \
        --dtype bfloat16
    kvtool save --model HuggingFaceTB/SmolLM2-135M-Instruct \
        --prompt "What is the capital of France?" --out ref_cache
    kvtool replay --from CPU
    kvtool info ref_cache

Exit status: 0 done, 1 a comparison failed, 2 usage or configuration,
3 recording and model do not belong together, 4 damaged file,
5 model, device, engine, memory or disk, 6 recovered with losses,
70 a bug in kvtool, 130 interrupted.
"kvtool COMMAND --help" has options and examples.)";

std::string version_text() {
  std::string text = std::string("kvtool ") + KVTOOL_VERSION;
#if defined(KVTOOL_TORCH_VERSION)
  text += std::string(" (engine built for torch ") + KVTOOL_TORCH_VERSION + ")";
#elif !defined(KVTOOL_HAVE_ENGINE)
  text += " (built without an engine)";
#endif
  return text;
}

void set_up_logging(const Terminal& terminal) {
  std::shared_ptr<spdlog::sinks::sink> sink;
  if (&terminal.err == &std::cerr) {
    const auto mode = terminal.no_color ? spdlog::color_mode::never : spdlog::color_mode::automatic;
    sink = std::make_shared<spdlog::sinks::stderr_color_sink_mt>(mode);
  } else {
    sink = std::make_shared<spdlog::sinks::ostream_sink_mt>(terminal.err, true);
  }
  auto logger = std::make_shared<spdlog::logger>("kvtool", std::move(sink));
  logger->set_pattern("kvtool: %^%l%$: %v");
  spdlog::set_default_logger(std::move(logger));
}

// "-q" and "-v" are known only after parsing.
void set_log_level(const CLI::App& command) {
  const auto given = [&](const char* name) {
    const CLI::Option* option = command.get_option_no_throw(name);
    return option != nullptr && option->count() > 0;
  };
  if (given("--verbose")) spdlog::set_level(spdlog::level::debug);
}

std::vector<std::string> option_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  }
  return names;
}

class Program {
 public:
  explicit Program(Terminal& terminal) : terminal_(terminal), app_(kDescription, "kvtool") {
    app_.formatter(std::make_shared<HelpFormatter>());
    app_.set_help_flag("-h,--help", "Show this help");
    app_.set_version_flag("--version", version_text(), "Show the version");
    app_.footer(kFooter);
    app_.require_subcommand(0, 1);
    for (const CommandFactory make : kCommands) {
      commands_.push_back(make());
      Command& command = *commands_.back();
      CLI::App& over = command.parent() == nullptr ? app_ : *app_.get_subcommand(command.parent());
      CLI::App* sub = over.add_subcommand(command.name(), command.summary());
      if (command.hidden()) sub->group("");
      sub->set_help_flag("-h,--help", "Show this help");
      command.declare(*sub);
    }
  }

  int run(int argc, const char* const* argv) {
    if (argc <= 1) {
      terminal_.err << app_.help();
      return kUsageStatus;
    }
    if (const int status = check_command_name(argv[1])) return status;
    try {
      app_.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
      return report_parse_error(error);
    }
    const CLI::App& parsed = parsed_app();
    for (const auto& command : commands_) {
      if (&app_of(*command) != &parsed) continue;
      if (const int status = check_nothing_before(parsed)) return status;
      set_log_level(parsed);
      return command->execute(terminal_);
    }
    terminal_.err << app_.help();
    return kUsageStatus;
  }

 private:
  // CLI11 would say only that an argument was not expected.
  int check_command_name(const std::string& name) {
    if (name.starts_with('-')) return 0;
    std::vector<std::string> names;
    for (const auto& command : commands_) {
      if (command->parent() != nullptr) continue;
      if (name == command->name()) return 0;
      if (!command->hidden()) names.emplace_back(command->name());
    }
    std::string known;
    for (const std::string& each : names) known += (known.empty() ? "" : ", ") + each;
    return usage_error("there is no command '" + name + "'" + suggestion(name, names) +
                       "\nThe commands are " + known);
  }

  int usage_error(const std::string& message) {
    spdlog::error("{}", printable(message));
    return kUsageStatus;
  }

  // The command that was named, which may stand under another one.
  CLI::App& parsed_app() {
    CLI::App* parsed = &app_;
    while (!parsed->get_subcommands().empty()) parsed = parsed->get_subcommands().front();
    return *parsed;
  }

  const CLI::App& app_of(const Command& command) {
    CLI::App& over = command.parent() == nullptr ? app_ : *app_.get_subcommand(command.parent());
    return *over.get_subcommand(command.name());
  }

  // "kvtool bench cache".
  static std::string full_name(const CLI::App& app) {
    const CLI::App* over = app.get_parent();
    return over == nullptr ? app.get_name() : full_name(*over) + " " + app.get_name();
  }

  // What is given to a command before the one below it would do nothing.
  int check_nothing_before(const CLI::App& command) {
    const CLI::App* over = command.get_parent();
    if (over == &app_) return 0;
    for (const CLI::Option* option : over->get_options()) {
      if (option->count() == 0) continue;
      return usage_error("'" + option->results().front() + "' stands before '" +
                         command.get_name() + "': " + full_name(command) +
                         " takes its own options\nSee " + full_name(command) + " --help");
    }
    return 0;
  }

  // CLI11 names a positional argument as the code does, not as the help does.
  static std::string missing_option(const CLI::App& command, const std::string& where,
                                    const std::string& otherwise) {
    for (const CLI::Option* option : command.get_options()) {
      if (!option->get_required() || !option->empty()) continue;
      const std::string name = option->get_positional() ? "" : option->get_name() + " ";
      return where + " needs " + name + option->get_option_text() + ": " +
             option->get_description();
    }
    return otherwise;
  }

  int report_parse_error(const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) {
      const int status = app_.exit(error, terminal_.out, terminal_.err);
      require_written(terminal_);
      return status;
    }
    CLI::App& command = parsed_app();
    const std::string where = full_name(command);
    std::string message = error.what();
    if (error.get_name() == "RequiredError") message = missing_option(command, where, message);
    for (const std::string& extra : app_.remaining(true)) {
      const std::string name = extra.substr(0, extra.find('='));
      if (!name.starts_with("--")) continue;
      message = where + " has no option " + name + suggestion(name, option_names(command));
      break;
    }
    return usage_error(message + "\nSee " + where + " --help");
  }

  Terminal& terminal_;
  CLI::App app_;
  std::vector<std::unique_ptr<Command>> commands_;
};

}  // namespace

int run_app(int argc, const char* const* argv, Terminal& terminal) {
  set_up_logging(terminal);
  try {
    return Program(terminal).run(argc, argv);
  } catch (...) {
    Failure failure = describe_failure(std::current_exception(), terminal.services.stop);
    if (failure.exit_status == kBugStatus) {
      failure.message += "\n" + what_to_report(version_text(), argc, argv);
    }
    terminal.out.flush();
    spdlog::error("{}", printable(failure.message));
    return failure.exit_status;
  }
}

}  // namespace kvtool::cli
