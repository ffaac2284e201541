// A save and its replay with a fake engine: everything but torch is real.
#pragma once

#include <nlohmann/json.hpp>

#include "cli_fixture.h"

namespace kvtool::cli {

inline constexpr const char* kSave =
    "save --model models/tiny.pt --prompts prompts.jsonl --max-new-tokens 6 --ignore-eos ";

// Of a CPU, with all that its numerical policy is made of.
inline constexpr const char* kWholeProvenance =
    R"({"torch_version": "9.9", "cpu_model": "Fake CPU", "cpu_isa": "AVX2", "threads": 2,
        "environment": {}})";

class SaveReplay : public CommandTest {
 protected:
  nlohmann::json replay_json(const std::string& options, int status = 0) {
    const CommandResult result = run("replay --json - " + options);
    EXPECT_EQ(result.status, status) << result.err;
    return nlohmann::json::parse(result.out);
  }
};

}  // namespace kvtool::cli
