#include "cli_fixture.h"

#include <nlohmann/json.hpp>
#include <sstream>

#include "cli/app.h"
#include "cli/interrupt.h"
#include "kvtool/run/calibration_worker.h"

namespace kvtool::cli {

namespace fs = std::filesystem;

void CommandTest::SetUp() {
  FolderTest::SetUp();
  write("models/tiny.pt", "");
}

void CommandTest::TearDown() {
  interrupt_source().reset();
  FolderTest::TearDown();
}

run::Services CommandTest::services() {
  return {.open_engine =
              [this](const std::string& /*isa*/, const engine::EngineOptions& /*options*/) {
                return make_fake_engine(engine_);
              },
          .encoder =
              [this](const fs::path& /*model*/, std::string_view input) {
                // One token per byte of the prompt.
                encoder_requests_.emplace_back(input);
                if (encoder_) return encoder_(input);
                nlohmann::json answer = {{"prompts", nlohmann::json::array()}};
                const auto request = nlohmann::json::parse(input);
                for (const auto& prompt : request["prompts"]) {
                  const std::string text =
                      prompt.contains("text") ? prompt["text"].get<std::string>() : "chat";
                  nlohmann::json ids = nlohmann::json::array();
                  for (const char c : text) ids.push_back(c % 64);
                  answer["prompts"].push_back({{"token_ids", ids}, {"text", text}});
                }
                return ProcessResult{0, answer.dump(), ""};
              },
          .now = [] { return run::WallTime(std::chrono::seconds(1767323045)); },
          .files = files_,
          .stop = interrupt_source().token()};
}

CommandResult CommandTest::run(const std::string& words, const std::vector<std::string>& more) {
  std::vector<std::string> arguments = {"kvtool"};
  std::istringstream stream(words);
  for (std::string word; stream >> word;) arguments.push_back(word);
  arguments.insert(arguments.end(), more.begin(), more.end());
  std::vector<const char*> argv;
  for (const std::string& argument : arguments) argv.push_back(argument.c_str());

  std::istringstream in(input_);
  std::ostringstream out;
  std::ostringstream err;
  Terminal terminal{.in = in, .out = out, .err = err, .services = services()};
  // As a process of its own would.
  terminal.services.worker = [this](std::string_view task) {
    return ProcessResult{0, run::do_worker_task(task, services()), ""};
  };
  CommandResult result;
  result.status = run_app(static_cast<int>(argv.size()), argv.data(), terminal);
  result.out = out.str();
  result.err = err.str();
  return result;
}

void CommandTest::write_prompts(std::size_t count) {
  std::string lines;
  for (std::size_t i = 0; i < count; ++i) {
    nlohmann::json ids = nlohmann::json::array();
    for (std::size_t t = 0; t < 2 + i; ++t) ids.push_back(3 + (i * 7 + t) % 50);
    lines += nlohmann::json{{"token_ids", ids}}.dump() + "\n";
  }
  write("prompts.jsonl", lines);
}

void CommandTest::save(std::size_t inputs, const std::string& options, int new_tokens) {
  write_prompts(inputs);
  const CommandResult result =
      run("save --model models/tiny.pt --prompts prompts.jsonl --ignore-eos --max-new-tokens " +
          std::to_string(new_tokens) + " " + options);
  ASSERT_EQ(result.status, 0) << result.err;
}

}  // namespace kvtool::cli
