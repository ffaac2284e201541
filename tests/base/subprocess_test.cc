#include "kvtool/base/subprocess.h"

#include <gtest/gtest.h>

#include "kvtool/base/error.h"

namespace kvtool {
namespace {

TEST(RunProcess, PassesMuchInputAndOutputWithoutDeadlock) {
  const std::string input(8 << 20, 'x');
  const ProcessResult result = run_process({"cat"}, input);
  EXPECT_EQ(result.exit_status, 0);
  EXPECT_EQ(result.output.size(), input.size());
}

TEST(RunProcess, AProgramNeedNotReadItsInput) {
  const ProcessResult result =
      run_process({"sh", "-c", "echo out; echo err >&2; exit 3"}, std::string(8 << 20, 'x'));
  EXPECT_EQ(result.exit_status, 3);
  EXPECT_EQ(result.output, "out\n");
  EXPECT_EQ(result.error_output, "err\n");
}

TEST(RunProcess, ASignalIsAnExitStatus) {
  EXPECT_EQ(run_process({"sh", "-c", "kill -9 $$"}, "").exit_status, 128 + 9);
}

TEST(RunProcess, ARequestedStopKillsTheProgram) {
  StopSource source;
  source.request_stop();
  EXPECT_THROW(static_cast<void>(run_process({"sleep", "600"}, "", source.token())), Interrupted);
}

TEST(RunProcess, AMissingProgramIsAnError) {
  EXPECT_THROW(static_cast<void>(run_process({"kvtool-no-such-program"}, "")), Error);
}

}  // namespace
}  // namespace kvtool
