#include <CLI/CLI.hpp>

#include "command.h"
#include "kvtool/run/cache_bench.h"
#include "options.h"
#include "reporting.h"
#include "settings.h"

namespace kvtool::cli {
namespace {

constexpr std::uint64_t kBenchedTokens = 16;

class BenchCacheCommand : public Command {
 public:
  [[nodiscard]] const char* name() const override { return "cache"; }
  [[nodiscard]] const char* parent() const override { return "bench"; }
  [[nodiscard]] const char* summary() const override {
    return "Measure generation with a K/V cache against the same without one";
  }

  void declare(CLI::App& app) override {
    const char* group = "Measurement";
    app.add_option("--model", options_.models, "Exported model or Hugging Face id; repeatable")
        ->option_text("FILE|ID")
        ->allow_extra_args(false)
        ->required()
        ->group(group);
    app.add_option("--context", request_.contexts,
                   "Tokens of the prompts (default 64,128,256,512,1024, as far as the model's "
                   "positions reach)")
        ->option_text("N[,N...]")
        ->delimiter(',')
        ->check(CLI::Range(std::uint64_t{1}, std::uint64_t{1} << 30))
        ->group(group);
    app.add_option("--text", text_,
                   "A text that the prompts are cut from (default: token ids by "
                   "a fixed rule)")
        ->option_text("FILE")
        ->group(group);
    app.add_option("--max-new-tokens", new_tokens_, "Tokens of each generation (default 16)")
        ->option_text("N")
        ->check(CLI::Range(std::uint64_t{2}, std::uint64_t{1} << 30))
        ->group(group);
    app.add_option("--repeats", request_.repeats, "Repeats that count (default 3)")
        ->option_text("N")
        ->check(CLI::Range(std::uint64_t{1}, std::uint64_t{1000}))
        ->group(group);
    add_device_options(app, options_);
    add_json_option(app, options_.reports);
    add_verbosity_options(app, options_.quiet, options_.verbose);
    add_page_options(app, options_.reports);
    app.footer(R"(Without a cache every token is computed by a pass over the prompt and all tokens
so far: N(N+1)/2 tokens for N, instead of N. Both sides generate the same, taking
turns. In float32 their tokens must be identical, else the exit status is 1; in 16
bit the first difference is named and judged as in a replay.

Examples:
    kvtool bench cache --model models/MODEL.pt
    kvtool bench cache --model models/MODEL.pt --device cpu --context 64,256 \
        --text book.txt --html cache.html
    kvtool bench cache --model models/MODEL.pt --kv-cache int8 --json -)");
  }

  int execute(Terminal& terminal) override {
    options_.max_new_tokens = new_tokens_;
    request_.run = request_of(options_);
    request_.text = text_;
    return with_observer(
        terminal, reporting_of("bench cache", options_), [&](run::Observer& observer) {
          return run::run_cache_bench(request_, terminal.services, observer) ? 0 : 1;
        });
  }

 private:
  RunOptions options_;
  run::CacheBenchRequest request_;
  std::string text_;
  std::uint64_t new_tokens_ = kBenchedTokens;
};

}  // namespace

std::unique_ptr<Command> make_bench_cache_command() {
  return std::make_unique<BenchCacheCommand>();
}

}  // namespace kvtool::cli
