// What the console shows of everything but runs: selftests, calibrations, measurements,
// recordings.
#include <gtest/gtest.h>

#include <functional>
#include <sstream>
#include <string_view>

#include "sample_results.h"

namespace kvtool::report {
namespace {

TEST(ConsoleResults, ShowsASelftest) {
  std::ostringstream out;
  make_console_reporter(out, {})->selftest(selftest_result());
  EXPECT_EQ(out.str(), R"golden(
Selftest of tiny with gate 16bit-cross
Reference: recorded before the test, 2 inputs, 30 steps
Control (no fault): passes
CAUGHT   scaled-values: V x 1.01 in layer 1
         by inject.kv.value.scale_error: measured 0.01, allowed at most 0.001
         V of layer 1 as a whole (the layer of the fault)
         smallest strength still caught: 0.002; 0.001 passes (V x (1 + s))
MISSED   stale-row: the row of step 3 repeats that of step 2
SKIPPED  swapped-heads: KV heads 0 and 1 swapped
         the model has one KV head
Caught 1 of 2 faults in 12.2 s
Result: FAIL
)golden");
}

TEST(ConsoleResults, ShowsACalibration) {
  std::ostringstream out;
  make_console_reporter(out, {})->calibration(calibration_result());
  EXPECT_EQ(out.str(), R"golden(
Calibration of Org/Tiny
Reference: CPU, AVX-512, 2 threads
Runs:
        3.5 s  avx2, 1 thread
Figure                                          noise  allowed (factor 4)
inject.kl.p99                                   0.002  at most 0.008
Note: One thread count only: the machine has one core.
Gate written to
    gates/tiny.json
)golden");
}

TEST(ConsoleResults, TrialsSayWhereMismatchesAreJudgedByUlp) {
  constexpr std::string_view kLine =
      "\nJudged by ulp: the recordings hold no sample of logits that shows noise. Record\n"
      "  again with this version, and a top-k of at least 8, to have mismatches judged\n"
      "  by noise.\n";
  run::SelftestResult selftest = selftest_result();
  run::CalibrationResult calibration = calibration_result();
  selftest.measures_noise = calibration.measures_noise = false;
  for (const auto& show :
       {std::function([&](Reporter& reporter) { reporter.selftest(selftest); }),
        std::function([&](Reporter& reporter) { reporter.calibration(calibration); })}) {
    std::ostringstream out;
    show(*make_console_reporter(out, {}));
    EXPECT_NE(out.str().find(kLine), std::string::npos) << out.str();
  }
}

TEST(ConsoleResults, ASelftestSaysHowItWasReplayed) {
  run::SelftestResult result = selftest_result();
  const auto shown = [&](run::ReplayShape shape) {
    std::ostringstream out;
    result.shape = shape;
    make_console_reporter(out, {})->selftest(result);
    return out.str();
  };
  EXPECT_NE(shown(run::ReplayShape::kParallel)
                .find("30 steps\nParallel replay: all steps of an input in one pass; other kernels"
                      " than step by\n  step.\nControl"),
            std::string::npos)
      << shown(run::ReplayShape::kParallel);
  EXPECT_NE(shown(run::ReplayShape::kSingle)
                .find("\nOne input at a time: other kernels than in the recorded batches.\n"),
            std::string::npos);
  EXPECT_EQ(shown(run::ReplayShape::kRecorded).find("other kernels"), std::string::npos);
}

TEST(ConsoleResults, ShowsMeasurements) {
  std::ostringstream out;
  make_console_reporter(out, {})->bench(bench_result());
  EXPECT_EQ(out.str(), R"golden(a.kvc
2.00 MB, prefill_only, 7 steps, K/V 1.90 MB
3 repeats                                 median       least        most
open                              ms       0.250       0.125       0.500
verify                          GB/s       3.000       2.000       4.000
rebuild left out: a recording of mode prefill_only holds no K/V of steps
)golden");
}

TEST(ConsoleResults, ShowsARecordingMadeToBeMeasured) {
  run::BenchResult result;
  result.made = {"large.kvc", 10'000'000};
  std::ostringstream out;
  make_console_reporter(out, {})->bench(result);
  EXPECT_EQ(out.str(), "Wrote large.kvc (10.00 MB)\n");
}

TEST(SelftestResult, PassesWhenEveryInjectedFaultIsCaught) {
  run::SelftestResult result = selftest_result();
  EXPECT_FALSE(result.passed());
  result.faults[1].caught = true;
  EXPECT_TRUE(result.passed());
  result.control_passed = false;
  EXPECT_FALSE(result.passed());
}

TEST(SelftestResult, ProvesNothingWithoutAFault) {
  run::SelftestResult result = selftest_result();
  result.faults.erase(result.faults.begin(), result.faults.begin() + 2);
  EXPECT_FALSE(result.passed());
}

TEST(ConsoleResults, ShowsARecording) {
  std::ostringstream out;
  make_console_reporter(out, {})->info({false, {recording_info()}});
  EXPECT_EQ(out.str(), R"(File:         batch1_input0.kvc
Size:         1.23 MB
State:        complete
Model:        Org/Tiny
Weights:      abcd
Config:       cdef
Traced graph: efab
Policy:       0123456789ab
Platform:     unknown, the recording does not tell: CPU, torch
Dtype:        bfloat16
Device:       CPU (Some CPU)
KV cache:     bfloat16, 30 layers, 3 KV heads, key dim 64, value dim 64
Save mode:    delta
Batch:        size 1, input 0, row 0 of 1
Prompt:       5 tokens
Generated:    9 tokens, 8 decode steps, stopped by eos
Logits:       top 32 and a sample of 64 of 49152
Created:      2026-01-02T03:04:05Z
Versions:     kvtool 0.1.0, torch 2.13.0
UUID:         00000000-0000-4000-8000-000000000000
Provenance:
    cpu isa: AVX512
    threads: 2
Prompt text:
    Hello
Generated text:
    Hi there
)");
}

TEST(ConsoleResults, ListsAFolderWithItsUnreadableFiles) {
  run::RecordingInfo partial = recording_info();
  partial.path = "b.kvc.partial";
  partial.complete = false;
  partial.partial_name = true;
  run::RecordingInfo damaged;
  damaged.path = "c.kvc";
  damaged.bytes = 10;
  damaged.error = "c.kvc: not a recording";
  std::ostringstream out;
  make_console_reporter(out, {})->info({true, {recording_info(), partial, damaged}});
  EXPECT_EQ(out.str(), R"(     1.23 MB  delta             5 +     9 tokens  batch1_input0.kvc
     1.23 MB  delta             5 +     9 tokens  b.kvc.partial  (truncated) (unfinished)
UNREADABLE  c.kvc
            c.kvc: not a recording
3 recordings, 2.47 MB in all, 18 tokens generated
1 truncated
1 unreadable
)");
}

}  // namespace
}  // namespace kvtool::report
