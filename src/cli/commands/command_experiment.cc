#include <CLI/CLI.hpp>
#include <filesystem>
#include <ostream>

#include "choices.h"
#include "command.h"
#include "experiment_config.h"
#include "kvtool/base/error.h"
#include "kvtool/base/file.h"
#include "kvtool/run/experiment.h"
#include "options.h"
#include "reporting.h"
#include "settings.h"

namespace kvtool::cli {
namespace {

namespace fs = std::filesystem;

constexpr const char* kNewConfig = "experiment_config.json";

constexpr const char* kExperimentFooter =
    R"(Each experiment generates at each context length a number of times, and then says
what its K/V cache took and cost: latency, memory, traffic, hits, and beside them its
quality: the tokens of the baseline, fed under that cache. A speed-up or a saving is
claimed only where the policy acted. An experiment that fails says why, the others
go on, and the exit status is that of the first failure; after Ctrl-C the same command
with --resume goes on in the same folder.

In experiments/TIME/ are a JSON file for each run, experiment_summary.json,
experiment.html and plots/kv_cache_comparison.svg; tools/plot_experiment.py FOLDER
makes a .png of it. docs/experiment.md says what every figure means.

Examples:
  All modes at two lengths:
    kvtool experiment --model models/MODEL.pt --text book.txt --context 512,1024

  One mode, and one K/V cache by its own name:
    kvtool experiment --model models/MODEL.pt --mode baseline \
        --mode quest:budget=25% --context 1024 --runs 5

  From a file:
    kvtool experiment --create-config experiment_config.json
    kvtool experiment --config experiment_config.json --output experiments/first
    kvtool experiment --config experiment_config.json --output experiments/first --resume)";

bool ends_in_yaml(const fs::path& path) {
  return path.extension() == ".yaml" || path.extension() == ".yml";
}

class ExperimentCommand : public Command {
 public:
  [[nodiscard]] const char* name() const override { return "experiment"; }
  [[nodiscard]] const char* summary() const override {
    return "Run and compare K/V caches over context lengths: time, memory, hits and quality";
  }

  void declare(CLI::App& app) override {
    declare_experiments(app);
    declare_prompts(app);
    declare_output(app);
    add_device_options(app, options_);
    app.remove_option(app.get_option("--kv-cache"));
    app.footer(kExperimentFooter);
  }

  int execute(Terminal& terminal) override {
    if (create_config_->count() > 0) return create_config(terminal);
    const run::ExperimentRequest request = request_from_options();
    const fs::path folder = run::make_experiment_folder(request, terminal.services);
    if (!no_plots_) draw_into(folder);
    return with_observer(terminal, reporting_of(name(), options_), [&](run::Observer& observer) {
      static_cast<void>(run::run_experiments(request, folder, terminal.services, observer));
      return 0;
    });
  }

 private:
  void draw_into(const fs::path& folder) {
    fs::create_directories(folder / "plots");
    options_.reports.picture = (folder / "plots" / "kv_cache_comparison.svg").string();
    if (options_.reports.html.empty()) {
      options_.reports.html = (folder / "experiment.html").string();
    }
  }

  void declare_experiments(CLI::App& app) {
    const char* group = "Experiments";
    const auto count = [&](const char* option, std::optional<std::uint64_t>& target,
                           const std::string& words, std::uint64_t least) {
      app.add_option(option, target, words)
          ->option_text("N")
          ->check(CLI::Range(least, std::uint64_t{1} << 30))
          ->group(group);
    };
    app.add_option("--config", config_,
                   "A list of experiments: JSON with comments, or .yaml. Options win over it")
        ->option_text("FILE")
        ->group(group);
    create_config_ = app.add_option("--create-config", new_config_,
                                    std::string("Write such a list, with comments, and end "
                                                "(default ") +
                                        kNewConfig + ")")
                         ->expected(0, 1)
                         ->option_text("[FILE]")
                         ->group(group);
    app.add_option("--model", choices_.model,
                   "Exported model, Hugging Face id of one, or the folder of a checkpoint, which "
                   "is exported first")
        ->option_text("FILE|ID|DIR")
        ->group(group);
    app.add_option("--mode", modes_,
                   "Without --config, what to run; repeatable: " +
                       names_and_summaries(run::kExperimentModes) +
                       ", or a K/V cache as of --kv-cache of other commands. Default: the five")
        ->option_text("MODE|SPEC")
        ->allow_extra_args(false)
        ->group(group);
    app.add_option("--context", choices_.contexts, "Tokens of the prompts (default 512)")
        ->option_text("N[,N...]")
        ->delimiter(',')
        ->check(CLI::Range(std::uint64_t{1}, std::uint64_t{1} << 30))
        ->group(group);
    count("--runs", choices_.runs, "Generations of each experiment and length (default 3)", 1);
    count("--max-new-tokens", choices_.max_new_tokens, "Tokens of each generation (default 32)", 2);
    count("--batch-size", choices_.batch_size, "Inputs that run together (default 1)", 1);
    count("--page-size", choices_.page_size, "Positions of a page (default 16)", 1);
    count("--max-device-pages,--max-gpu-pages", choices_.max_device_pages,
          "Pages of a layer and input that have room on the device, and that a step sees "
          "(default 16)",
          1);
    count("--prefetch-k", choices_.prefetch_k,
          "Pages that mode predictive fetches ahead of a step, at most (default 4)", 1);
    app.add_option("--quantization", quantization_,
                   "Of weights: none, until such files can be exported")
        ->option_text("NAME")
        ->group(group);
    app.add_option("--dtype", choices_.dtype, "Of a checkpoint that is exported (default bfloat16)")
        ->option_text("DTYPE")
        ->check(CLI::IsMember({"bfloat16", "float16", "float32"}))
        ->group(group);
  }

  void declare_prompts(CLI::App& app) {
    const char* group = "Prompts";
    app.add_option("--prompts", options_.prompts_file,
                   "Prompts, one JSON object a line; joined and cut to the lengths")
        ->option_text("FILE.jsonl")
        ->group(group);
    app.add_option("--text", text_,
                   "A text that the prompts are cut from (default: token ids by a fixed rule)")
        ->option_text("FILE")
        ->group(group);
  }

  void declare_output(CLI::App& app) {
    const char* group = "Output";
    app.add_option("--output", output_,
                   "Folder for results; {timestamp} may stand in it (default "
                   "experiments/{timestamp})")
        ->option_text("DIR")
        ->group(group);
    app.add_flag("--resume", resume_,
                 "Go on in that folder, with {timestamp} in the newest: what is there, complete "
                 "and of equal settings is not repeated")
        ->group(group);
    app.add_flag("--no-plots", no_plots_, "No experiment.html and no pictures")->group(group);
    add_json_option(app, options_.reports);
    add_page_options(app, options_.reports);
    add_verbosity_options(app, options_.quiet, options_.verbose);
  }

  int create_config(Terminal& terminal) {
    const fs::path path = new_config_.empty() ? kNewConfig : new_config_;
    if (fs::exists(path)) throw_usage(path.string() + " exists already: name another file");
    write_output_file(path, default_experiment_config(
                                choices_.model.value_or("HuggingFaceTB/SmolLM2-135M-Instruct"),
                                ends_in_yaml(path)));
    terminal.out << "Wrote " << path.string() << "; run it with\n    kvtool experiment --config "
                 << run::shell_quoted(path.string()) << "\n";
    require_written(terminal);
    return 0;
  }

  [[nodiscard]] std::vector<run::ExperimentSettings> experiments_of(
      const ExperimentConfig& config) const {
    std::vector<run::ExperimentSettings> experiments = config.experiments;
    if (config_.empty()) {
      const std::vector<std::string> modes =
          modes_.empty() ? names_of(run::kExperimentModes) : modes_;
      for (const std::string& mode : modes) experiments.emplace_back().mode = mode;
    }
    for (run::ExperimentSettings& settings : experiments) choices_.apply_to(settings);
    return experiments;
  }

  [[nodiscard]] run::ExperimentRequest request_from_options() {
    if (!quantization_.empty()) refuse_quantized_weights("--quantization", quantization_);
    if (!config_.empty() && !modes_.empty()) {
      throw_usage("--config names the modes: leave --mode out, or the file");
    }
    if (config_.empty() && !choices_.model) {
      throw_usage(
          "nothing to run: give --config FILE, or --model, for example\n    kvtool experiment "
          "--model models/MODEL.pt --context 512");
    }
    const ExperimentConfig config =
        config_.empty() ? ExperimentConfig() : load_experiment_config(config_);
    run::ExperimentRequest request;
    request.run = request_of(options_);
    request.run.config_folder = config.path.parent_path();
    if (!options_.device && config.device) request.run.device = *config.device;
    request.experiments = experiments_of(config);
    take_experiment_prompts(config, request);
    request.folder = output_.value_or(config.output_dir.value_or(request.folder));
    request.resume = resume_;
    return request;
  }

  void take_experiment_prompts(const ExperimentConfig& config,
                               run::ExperimentRequest& request) const {
    if (options_.prompts_file && !text_.empty()) {
      throw_usage("--prompts and --text are two sources: give one of them");
    }
    if (options_.prompts_file) {
      request.run.prompts = run::load_prompts_file(*options_.prompts_file);
    } else if (!text_.empty()) {
      request.text = text_;
    } else {
      request.run.prompts = config.prompts;
      request.text = config.text.value_or("");
    }
    if (!request.text.empty() && !request.run.prompts.empty()) {
      throw_usage(config.path.string() + ": prompts and text are two sources: give one of them");
    }
  }

  RunOptions options_;
  ExperimentChoices choices_;
  std::string config_;
  std::string new_config_;
  CLI::Option* create_config_ = nullptr;
  std::vector<std::string> modes_;
  std::string quantization_;
  std::string text_;
  std::optional<std::string> output_;
  bool resume_ = false;
  bool no_plots_ = false;
};

}  // namespace

std::unique_ptr<Command> make_experiment_command() { return std::make_unique<ExperimentCommand>(); }

}  // namespace kvtool::cli
