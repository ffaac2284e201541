#include <gtest/gtest.h>

#include <limits>
#include <sstream>

#include "sample_results.h"

namespace kvtool::report {
namespace {

std::string console(const InputResult& input, ConsoleOptions options = {}) {
  std::ostringstream out;
  const auto reporter = make_console_reporter(out, options);
  report_all(*reporter, input);
  return out.str();
}

TEST(ConsoleReporter, ShowsAGeneratedInput) {
  EXPECT_EQ(console(generated_input()), R"(Device: CPU (Some CPU)
Model:  Org/Tiny (bfloat16, 30 layers)

Input 0
Prompt: 3 tokens
    Hello
    world
Output: 4 tokens, stopped by eos
    one two\x1b[2J
Steps: 3, TPS: 1.50
Saved:  out/CPU/tiny/batch1_input0.kvc (2.50 MB, delta)

Summary
Inputs: 1, steps: 3, TPS: 1.50
Saved 1 recording (2.50 MB) under
    out/CPU
Next:
    kvtool replay --from out/CPU
)");
}

TEST(ConsoleReporter, ShowsAReplayWithItsMismatchInPlace) {
  EXPECT_EQ(console(replayed_input()), R"(Device: CPU (Some CPU)
Model:  Org/Tiny (bfloat16, 30 layers)

Input 5 (row 1 of a batch of 4)
From:   ref_cache/NVIDIA_H200/tiny/batch4_input5.kvc
        recorded on NVIDIA_H200, delta
Prompt: 2 tokens
    Hi
Output: 5 tokens, mismatches as [predicted≠recorded]
    A€[\n≠ Paris] is.
Prefill: token 0 matches, K/V bitwise equal
Steps: 4, Match: 3/4 (75.0%), TPS: 2.00
K/V of the steps: relative L2 1.00e-02, max 5.00e-02, 10.0% of elements differ
Logits: differ in some bits
First divergence: step 1, tie
    predicted "\n" (id 40), recorded " Paris" (id 12)
    margin 0.0625 = 0.5 ulp (ulp 0.125)

Summary
Inputs: 1, fully matching: 0
Prefill: token 0 matches in 1/1, K/V bitwise equal
Steps: 4, Match: 3/4 (75.0%), TPS: 2.00
K/V of the steps: relative L2 1.00e-02, max 5.00e-02, 10.0% of elements differ
Logits: bitwise equal in 0/1; logits and K/V: in 0/1
Mismatches: 1 tie, 0 near-ties, 0 hard flips
First divergence of batch4_input5: step 1, tie
Result: PASS
Next:
    kvtool replay --from out/CPU
)");
}

TEST(ConsoleReporter, SaysSoWhenTheRecordingHoldsNoStepKv) {
  InputResult input = replayed_input();
  input.replay->own_step_kv = true;
  EXPECT_NE(console(input).find("The steps ran on this device's own K/V: the recording holds none "
                                "after\nthe prompt.\n"),
            std::string::npos);
}

TEST(ConsoleReporter, AHardFlipFails) {
  InputResult input = replayed_input();
  input.replay->comparison.tokens[2].verdict = analysis::TokenVerdict::kHardFlip;
  const std::string text = console(input);
  EXPECT_NE(text.find("1 hard flip\n"), std::string::npos);
  EXPECT_NE(text.find("Result: FAIL (hard flip or non-finite values)"), std::string::npos);
}

TEST(ConsoleReporter, AReplayWithoutStepsHasNoRate) {
  InputResult input = replayed_input();
  input.replay->comparison.tokens.resize(1);
  input.replay->texts.resize(1);
  input.replay->comparison.step_kv = {};
  input.timing.steps = 0;
  const std::string text = console(input);
  EXPECT_NE(text.find("Steps: 0, Match: 0/0 (n/a), TPS: n/a\n"), std::string::npos);
  EXPECT_NE(text.find("K/V of the steps: not compared\n"), std::string::npos);
}

TEST(ConsoleReporter, OneMissOfThousandsIsNotAHundredPercent) {
  InputResult input = replayed_input();
  analysis::RowComparison& row = input.replay->comparison;
  row.tokens.resize(20001, row.tokens[0]);
  input.replay->texts.resize(20001);
  input.timing.steps = 20000;
  EXPECT_NE(console(input).find("Match: 19999/20000 (99.9%)"), std::string::npos);
}

TEST(ConsoleReporter, QuietShowsTheSummaryOnly) {
  const std::string text = console(replayed_input(), {.quiet = true});
  EXPECT_TRUE(text.starts_with("Summary\nInputs: 1")) << text;
}

TEST(ConsoleReporter, ColorsOnlyOnRequest) {
  EXPECT_EQ(console(replayed_input()).find('\x1b'), std::string::npos);
  EXPECT_NE(console(replayed_input(), {.color = true}).find("\x1b[31m[\\n≠ Paris]\x1b[0m"),
            std::string::npos);
}

TEST(ConsoleReporter, ShortensLongPromptsUnlessVerbose) {
  InputResult input = generated_input();
  input.prompt_text = std::string(2000, 'x');
  EXPECT_LT(console(input).size(), 1000U);
  EXPECT_GT(console(input, {.verbose = true}).size(), 2000U);
}

TEST(ConsoleReporter, ShowsARecording) {
  std::ostringstream out;
  make_console_reporter(out, {})->info({false, {recording_info()}});
  EXPECT_EQ(out.str(), R"(File:         batch1_input0.kvc
Size:         1.23 MB
State:        complete
Model:        Org/Tiny
Weights:      abcd
Dtype:        bfloat16
Device:       CPU (Some CPU)
KV cache:     bfloat16, 30 layers, 3 KV heads, key dim 64, value dim 64
Save mode:    delta
Batch:        size 1, input 0, row 0 of 1
Prompt:       5 tokens
Generated:    9 tokens, 8 decode steps, stopped by eos
Logits:       top 32 of 49152
Created:      2026-01-02T03:04:05Z
Versions:     kvtool 0.1.0, torch 2.13.0
UUID:         00000000-0000-4000-8000-000000000000
Prompt text:
    Hello
Generated text:
    Hi there
)");
}

TEST(ConsoleReporter, ListsAFolderWithItsUnreadableFiles) {
  RecordingInfo partial = recording_info();
  partial.path = "b.kvc.partial";
  partial.complete = false;
  partial.partial_name = true;
  RecordingInfo damaged;
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
