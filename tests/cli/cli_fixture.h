// Runs kvtool's commands inside the test process, in a folder of its own, with
// a fake engine and a fixed clock.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "kvtool/run/services.h"
#include "support/fake_engine.h"
#include "support/faulty_file_system.h"
#include "support/folder_test.h"

namespace kvtool::cli {

struct CommandResult {
  int status = 0;
  std::string out;
  std::string err;
};

class CommandTest : public FolderTest {
 protected:
  // models/tiny.pt is there.
  void SetUp() override;
  void TearDown() override;

  // "save --out x": split at spaces; further arguments as they are.
  CommandResult run(const std::string& words, const std::vector<std::string>& more = {});
  // Inputs of different lengths as token ids, in prompts.jsonl.
  static void write_prompts(std::size_t count);
  // Recordings of that many inputs, each of `new_tokens`.
  void save(std::size_t inputs, const std::string& options, int new_tokens = 6);

  // The fake engine, an encoder with a token for each byte, a fixed clock.
  run::Services services();

  FakeEngineState engine_;
  FaultyFileSystem files_;
  std::vector<std::string> encoder_requests_;
  std::function<ProcessResult(std::string_view input)> encoder_;  // instead of the one above
  std::string input_;                                             // on standard input
};

}  // namespace kvtool::cli
