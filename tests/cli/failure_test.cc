// Errors become exit statuses: what the user can mend, and what is a bug in kvtool.
#include "cli/failure.h"

#include <gmock/gmock.h>

#include <filesystem>
#include <functional>
#include <new>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <tuple>

#include "cli_fixture.h"
#include "kvtool/base/setting.h"

namespace kvtool::cli {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

Failure failure_of(const std::function<void()>& body) {
  try {
    body();
  } catch (...) {
    return describe_failure(std::current_exception(), {});
  }
  ADD_FAILURE() << "no exception";
  return {};
}

TEST(Failure, WhatAUserCanMendHasAStatusOfItsOwn) {
  EXPECT_EQ(failure_of([] { throw_usage("x"); }).exit_status, 2);
  EXPECT_EQ(failure_of([] { throw_incompatible("x"); }).exit_status, 3);
  EXPECT_EQ(failure_of([] { throw_corrupt("x"); }).exit_status, 4);
  EXPECT_EQ(failure_of([] { throw_environment("x"); }).exit_status, 5);
  EXPECT_EQ(failure_of([] { throw std::bad_alloc(); }).exit_status, 5);
  EXPECT_EQ(failure_of([] { std::ignore = std::filesystem::file_size("/nowhere"); }).exit_status,
            5);
  EXPECT_EQ(failure_of([] { throw_usage("give " + setting("ref_dir")); }).message,
            "give --ref-dir");
}

TEST(Failure, EverythingElseIsABug) {
  const auto expect_bug = [](const std::function<void()>& body, const std::string& message) {
    const Failure failure = failure_of(body);
    EXPECT_EQ(failure.exit_status, 70);
    EXPECT_EQ(failure.message, "a bug in kvtool: " + message);
  };
  expect_bug([] { throw_internal("no such layer"); }, "no such layer");
  expect_bug([] { throw_misuse("a step out of order"); }, "a step out of order");
  expect_bug([] { throw std::logic_error("x"); }, "x");
  expect_bug([] { throw std::runtime_error("y"); }, "y");
  expect_bug([] { throw 7; }, "an exception that says nothing");
}

class BugTest : public CommandTest {
 protected:
  CommandResult save_with(const std::function<void()>& bug) {
    engine_.on_step = [bug](std::uint64_t, std::uint64_t) { bug(); };
    return run("save --model models/tiny.pt --max-new-tokens 4 --json bug.json --prompt",
               {"it's me"});
  }
};

TEST_F(BugTest, InTheEngineSaysWhatToReport) {
  const CommandResult result = save_with([] { throw std::logic_error("vector::at"); });
  EXPECT_EQ(result.status, 70);
  EXPECT_THAT(result.err,
              AllOf(HasSubstr("a bug in kvtool: vector::at\n"), HasSubstr("Please report"),
                    HasSubstr("\n    kvtool " KVTOOL_VERSION),
                    HasSubstr("\n    kvtool save --model models/tiny.pt --max-new-tokens 4 "
                              "--json bug.json --prompt 'it'\\''s me'\n")));
  const auto report = nlohmann::json::parse(read("bug.json"));
  EXPECT_EQ(report["error"]["exit_status"], 70);
  EXPECT_EQ(report["error"]["message"], "a bug in kvtool: vector::at");
}

TEST_F(BugTest, IsAlsoAWrongCallOfTheEngine) {
  EXPECT_EQ(save_with([] { throw_misuse("no such row"); }).status, 70);
}

TEST_F(BugTest, IsNotWhatTheEngineSaysOfTheDevice) {
  const CommandResult result = save_with([] { throw_environment("no memory"); });
  EXPECT_EQ(result.status, 5);
  EXPECT_THAT(result.err, Not(HasSubstr("report")));
}

}  // namespace
}  // namespace kvtool::cli
