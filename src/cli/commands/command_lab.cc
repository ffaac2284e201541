#include <CLI/CLI.hpp>

#include "choices.h"
#include "command.h"
#include "kvtool/base/error.h"
#include "kvtool/format/replay_mode.h"
#include "kvtool/run/lab.h"
#include "options.h"
#include "reporting.h"
#include "settings.h"

namespace kvtool::cli {
namespace {

constexpr const char* kLabFooter =
    R"(Each policy replays the same recordings, and the table has its quality beside its
bytes and its time. Always there: full (the cache that made the recordings), noise
(full where only rounding differs: another instruction set, or another batch), and
at each budget mass (the best choice, which no real system knows), window and
random. A policy that did nothing says so, and nothing is claimed for it.

A comma begins another policy unless an option follows it: the two policies of
'int8,quest:page=32,codec=int8' are int8 and quest:page=32,codec=int8.

Checks: full >= policy >= random at equal budget, larger budget >= smaller, by the
95 % intervals of agreement. Exit status: 0, or 1 with --strict where one fails.
docs/lab.md says what every column means.

Examples:
    kvtool save --model models/MODEL.pt --text book.txt --context 512,1024 \
        --max-new-tokens 128 --ignore-eos --out ref_cache
    kvtool lab --from CPU --policy int8,kivi:k=4,v=4
    kvtool lab --from CPU --policy quest,mean-key --budget 50,25,12.5% \
        --mode forced,free --html lab.html
    kvtool lab --from CPU --sensitivity
    kvtool lab --from CPU --policy kivi:k=4,v=4 --perplexity --text book.txt
    kvtool lab --from CPU --policy quest,mean-key --needles --context 1024,2048
    kvtool lab --from CPU --policy fp8 --rows none --gate 16bit-cross --json -)";

// "a,b=1,c:d=2,e=3" is a,b=1 and c:d=2,e=3: a piece "name=value" is an option of what stands
// before it.
std::vector<std::string> joined_specs(const std::vector<std::string>& given) {
  std::vector<std::string> specs;
  for (const std::string& text : given) {
    bool is_first = true;
    for (std::size_t at = 0; at <= text.size();) {
      const std::size_t end = std::min(text.find(',', at), text.size());
      const std::string piece = text.substr(at, end - at);
      at = end + 1;
      const std::size_t equals = piece.find('=');
      const bool is_option = equals != std::string::npos && piece.find(':') > equals;
      if (is_option && !is_first) {
        specs.back() += "," + piece;
      } else {
        specs.push_back(piece);
      }
      is_first = false;
    }
  }
  return specs;
}

class LabCommand : public Command {
 public:
  [[nodiscard]] const char* name() const override { return "lab"; }
  [[nodiscard]] const char* summary() const override {
    return "Compare K/V cache policies: quality, bytes and time of each in one table";
  }

  void declare(CLI::App& app) override {
    app_ = &app;
    declare_policies(app);
    declare_texts(app);
    declare_reference(app);
    add_device_options(app, options_);
    app.remove_option(app.get_option("--kv-cache"));
    add_json_option(app, options_.reports);
    add_page_options(app, options_.reports);
    add_verbosity_options(app, options_.quiet, options_.verbose);
    app.footer(kLabFooter);
  }

  int execute(Terminal& terminal) override {
    if (!options_.from) {
      throw_usage(
          "kvtool lab needs --from: the recordings that every policy replays, for example\n    "
          "kvtool lab --from CPU --policy quest");
    }
    request_.run = resolve_settings(options_, Action::kReplay).request;
    request_.run.kv_cache.reset();
    request_.run.prompts.clear();
    request_.run.save = false;
    if (options_.modes.empty()) request_.run.replay_modes.clear();
    request_.policies = joined_specs(policies_);
    request_.controls = rows_ != "none";
    check_texts();
    return with_observer(terminal, reporting_of(name(), options_), [&](run::Observer& observer) {
      const run::LabResult result = run::run_lab(request_, terminal.services, observer);
      return strict_ && !result.checks_passed() ? 1 : 0;
    });
  }

 private:
  void declare_policies(CLI::App& app) {
    const char* group = "Policies";
    app.add_option("--policy", policies_,
                   "What is compared: specs as of --kv-cache of other commands (docs/caches.md); "
                   "repeatable")
        ->option_text("SPEC[,SPEC...]")
        ->allow_extra_args(false)
        ->group(group);
    app.add_option("--budget", request_.budgets,
                   "Shares of an input that policies which select may show a step, where their "
                   "spec names no budget of its own (default 50,25%)")
        ->option_text("P[,P...]%")
        ->delimiter(',')
        ->group(group);
    app.add_option("--rows", rows_,
                   "all: with noise, mass, window and random (default); none: without them")
        ->option_text("WHICH")
        ->check(CLI::IsMember({"all", "none"}))
        ->group(group);
    app.add_flag("--attention-output", request_.attention,
                 "Also what attention gives under each policy against attention over all keys as "
                 "they were made, step by step (forced): replays every row once more")
        ->group(group);
    app.add_flag("--sensitivity", request_.sensitivity,
                 "Also K alone, V alone and each layer alone in 8, 4 and 2 bits: which part to "
                 "leave as the model made it. Groups as of the first kivi of --policy")
        ->group(group);
    app.add_flag("--breakeven", request_.breakeven,
                 "Also from which length a policy saves time: takes recordings of several lengths, "
                 "and a machine that does nothing else")
        ->group(group);
    app.add_flag("--strict", strict_, "Exit status 1 where a check fails")->group(group);
  }

  void declare_texts(CLI::App& app) {
    const char* group = "Texts that are read through each cache";
    run::LabTextRequest& texts = request_.texts;
    app.add_flag(
           "--perplexity", texts.perplexity,
           "Also the perplexity of a text that is read token by token through each cache, and "
           "its increase over full")
        ->group(group);
    app.add_flag("--needles", texts.needles,
                 "Also which facts of a text are recalled through each cache, by length and depth")
        ->group(group);
    app.add_option("--text", texts.text,
                   "The text of --perplexity (default: the recorded prompts), and what is between "
                   "needles (default: built-in sentences)")
        ->option_text("FILE")
        ->group(group);
    app.add_option("--context", texts.contexts,
                   "Tokens that are read at a time, one length or several (default 1024)")
        ->option_text("N[,N...]")
        ->delimiter(',')
        ->check(CLI::PositiveNumber)
        ->group(group);
    app.add_option("--prefix", texts.prefix,
                   "Of --perplexity: the first tokens of each window, read in one pass and not "
                   "scored (default: half of the window)")
        ->option_text("N")
        ->check(CLI::PositiveNumber)
        ->group(group);
    app.add_option("--windows", texts.windows,
                   "Of --perplexity: the most windows of --context tokens, one behind the other "
                   "(default 8)")
        ->option_text("N")
        ->check(CLI::PositiveNumber)
        ->group(group);
    app.add_option("--needle-texts", texts.needle_texts,
                   "Texts of 9 needles at each length (default 4)")
        ->option_text("N")
        ->check(CLI::PositiveNumber)
        ->group(group);
  }

  // What would be set without effect.
  void check_texts() const {
    const run::LabTextRequest& texts = request_.texts;
    const auto refuse = [](const char* option, const char* of) {
      throw_usage(std::string(option) + " is of " + of + ": name that too, or leave it out");
    };
    if (!texts.reads()) {
      if (!texts.text.empty()) refuse("--text", "--perplexity and --needles");
      if (!texts.contexts.empty()) refuse("--context", "--perplexity and --needles");
    }
    if (!texts.perplexity && texts.prefix) refuse("--prefix", "--perplexity");
    if (!texts.perplexity && given("--windows")) refuse("--windows", "--perplexity");
    if (!texts.needles && given("--needle-texts")) refuse("--needle-texts", "--needles");
  }

  [[nodiscard]] bool given(const char* option) const {
    return app_->get_option(option)->count() > 0;
  }

  void declare_reference(CLI::App& app) {
    const char* group = "Reference";
    add_reference_options(app, options_,
                          "The recordings: a device label below --ref-dir, or the path of a .kvc "
                          "file or of a folder");
    add_from_batch_size_option(app, options_);
    app.add_option("--model", options_.models,
                   "Exported model or Hugging Face id (default: the one that was recorded)")
        ->option_text("FILE|ID")
        ->allow_extra_args(false)
        ->group(group);
    app.add_option(
           "--mode", options_.modes,
           "How the steps are fed, one or several: " + names_and_summaries(format::kReplayModes) +
               ". Default: forced, and those that --gate needs. Figures are of forced "
               "where it runs")
        ->option_text("MODE[,MODE...]")
        ->delimiter(',')
        ->check(CLI::IsMember(names_of(format::kReplayModes)))
        ->group(group);
    app.add_option("--gate", options_.gate,
                   "What each row is judged by: a built-in gate or a gate file (docs/gates.md). "
                   "Default: no hard flip, no NaN or Inf")
        ->option_text("NAME|FILE")
        ->group(group);
  }

  const CLI::App* app_ = nullptr;
  RunOptions options_;
  run::LabRequest request_;
  std::vector<std::string> policies_;
  std::string rows_ = "all";
  bool strict_ = false;
};

}  // namespace

std::unique_ptr<Command> make_lab_command() { return std::make_unique<LabCommand>(); }

}  // namespace kvtool::cli
