#include "cli_fixture.h"

#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "kvtool/cli/app.h"
#include "kvtool/cli/interrupt.h"

namespace kvtool::cli {

namespace fs = std::filesystem;

void FolderTest::SetUp() {
  before_ = fs::current_path();
  std::string pattern = (fs::temp_directory_path() / "kvtool_cli_XXXXXX").string();
  ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
  folder_ = pattern;
  fs::current_path(folder_);
}

void FolderTest::TearDown() {
  fs::current_path(before_);
  fs::remove_all(folder_);
}

void FolderTest::write(const fs::path& path, std::string_view content) {
  if (path.has_parent_path()) fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << content;
}

std::string FolderTest::read(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void CommandTest::SetUp() {
  FolderTest::SetUp();
  write("models/tiny.pt", "");
}

void CommandTest::TearDown() {
  set_interrupted(false);
  FolderTest::TearDown();
}

CommandResult CommandTest::run(const std::string& words, const std::vector<std::string>& more) {
  std::vector<std::string> arguments = {"kvtool"};
  std::istringstream stream(words);
  for (std::string word; stream >> word;) arguments.push_back(word);
  arguments.insert(arguments.end(), more.begin(), more.end());
  std::vector<const char*> argv;
  for (const std::string& argument : arguments) argv.push_back(argument.c_str());

  std::ostringstream out;
  std::ostringstream err;
  Services services{
      .out = out,
      .err = err,
      .open_engine =
          [this](const std::string& /*isa*/, const engine::EngineOptions& /*options*/) {
            return make_fake_engine(engine_);
          },
      .encoder =
          [this](const fs::path& /*model*/, std::string_view input) {
            // One token per byte of the prompt.
            encoder_requests_.emplace_back(input);
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
      .now = [] { return WallTime(std::chrono::seconds(1767323045)); },
      .files = files_};
  CommandResult result;
  result.status = run_app(static_cast<int>(argv.size()), argv.data(), services);
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

}  // namespace kvtool::cli
