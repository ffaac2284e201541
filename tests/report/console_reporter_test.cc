#include <gtest/gtest.h>

#include <limits>
#include <sstream>
#include <string_view>

#include "kvtool/base/text.h"
#include "sample_results.h"

namespace kvtool::report {
namespace {

std::string console(const run::InputResult& input, ConsoleOptions options = {}) {
  std::ostringstream out;
  const auto reporter = make_console_reporter(out, options);
  report_all(*reporter, input);
  return out.str();
}

std::string console_run(const std::vector<run::InputResult>& inputs, const run::Summary& summary,
                        ConsoleOptions options = {}) {
  std::ostringstream out;
  const auto reporter = make_console_reporter(out, options);
  report_run(*reporter, inputs, summary);
  return out.str();
}

run::Summary judged(const std::vector<run::InputResult>& inputs) {
  run::Summary summary = summary_of(inputs);
  summary.verdicts = {verdict_of(inputs, sample_gate(), true)};
  return summary;
}

// What is too wide for the console; paths may be.
std::vector<std::string> wide_lines(const std::string& text) {
  std::vector<std::string> wide;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (display_columns(line) > 80) wide.push_back(line);
  }
  return wide;
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

// What both replays below show of their first input.
constexpr std::string_view kReplayedInput = R"golden(Device: CPU (Some CPU)
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
inject: 3/4 steps match (75.0%), 1 tie, K 1.0e-02 V 5.0e-03, KL (lower bound)
        p99 2.5e-01
        first divergence: step 1, tie
          predicted "\n" (id 40), recorded " Paris" (id 12)
          gap 0.0625 = 0.5 ulp (a tie: up to 1 ulp), margin 0.0625
)golden";

TEST(ConsoleReporter, ShowsAReplayWithItsMismatchInPlace) {
  EXPECT_EQ(console(replayed_input()), std::string(kReplayedInput) + R"golden(
Summary
Inputs: 1, fully matching: 0
Steps: 4, Match: 3/4 (75.0%), TPS: 2.00

Org/Tiny (bfloat16): CPU against NVIDIA_H200
Judged by ulp: the recordings hold no sample of logits that shows noise. Record
    again with this version, and a top-k of at least 8, to have mismatches
    judged by noise.
                            prefill      inject
Tokens compared                   1           4
  matching                        1           3
  match rate                 100.0%       75.0%
  lower bound (95 %)           5.0%       24.8%
  ties                            0           1
  near-ties                       0           0
  hard flips                      0           0
Agreed tokens, min                -           2
Agreed tokens, median             -           2
Agreed tokens, share              -       40.0%
Logits bitwise equal         100.0%        0.0%
Top-1 agreement              100.0%       75.0%
Top-5 agreement              100.0%       95.0%
Top-5 accuracy               100.0%      100.0%
RMS delta p                       0     5.0e-02
KL (lower bound) mean             0     6.5e-02
KL (lower bound) median           0     3.0e-03
KL (lower bound) p99              0     2.5e-01
KL (lower bound) max              0     2.5e-01
K relative L2                     0     1.0e-02
V relative L2                     0     5.0e-03
K worst layer                     -  L0 1.0e-02
V worst layer                     -  L0 5.0e-03
K worst row                       0     1.0e-02
V worst row                       0     5.0e-03
K scale error                     0           0
V scale error                     0           0
K x rounding floor                0        6.77
V x rounding floor                0        3.39
K p99 ulp                         0           3
V p99 ulp                         0           3
K cosine                          1    0.999950
V cosine                          1    0.999987
K Pearson                         1    0.999966
V Pearson                         1    0.999991
K Pearson worst layer             1    0.999966
V Pearson worst layer             1    0.999991
What the pattern means.
Worst step of inject: KL (lower bound) 0.25 at batch4_input5, step 1
First divergences of inject: 1 of 1 input; agreed tokens: min 2, median 2
    batch4_input5: step 1, tie

Result: PASS
Next:
    kvtool replay --from out/CPU
)golden");
}

TEST(ConsoleReporter, ShowsThreeModesSideBySide) {
  const std::vector<run::InputResult> inputs = {replayed_input(), three_mode_input()};
  run::Summary summary = judged(inputs);
  summary.verdicts[0].provenance = {sample_difference()};
  summary.verdicts[0].different_weights = true;
  summary.verdicts[0].different_config = true;
  EXPECT_EQ(console_run(inputs, summary), std::string(kReplayedInput) + R"golden(
Input 6 (row 2 of a batch of 4)
From:   ref_cache/NVIDIA_H200/tiny/batch4_input6.kvc
        recorded on NVIDIA_H200, delta
Prompt: 2 tokens
    Hi
Output: 9 tokens, mismatches of inject as [predicted≠recorded]
     w0 w1 w2 w3 w4 w5 w6 w7 w8
Prefill: token 0 matches, K/V bitwise equal
Steps: 8, Match: 8/8 (100.0%), TPS: 4.00
inject: 8/8 steps match (100.0%), K 5.0e-03 V 5.0e-03, KL (lower bound) p99
        8.0e-03
forced: 7/8 steps match (87.5%), 1 hard flip, K 1.3e-01 V 5.0e-03, KL (lower
        bound) p99 2.5e-01
        first divergence: step 5, hard flip
          predicted " wrong" (id 40), recorded " w6" (id 16)
          gap 1.5 = 12 ulp (a hard flip: over 2 ulp), margin 1.5
        K of layer 3 leaves the profile of the others at position 7 (step 5):
        relative L2 0.9, others about 0.005
free:   5/6 steps match (83.3%), 1 hard flip, K 5.0e-03 V 5.0e-03, KL (lower
        bound) p99 2.5e-01, 2 steps after the divergence not compared
        first divergence: step 5, hard flip
          predicted " wrong" (id 40), recorded " w6" (id 16)
          gap 1.5 = 12 ulp (a hard flip: over 2 ulp), margin 1.5
        then wrote: " wrong way"

Summary
Inputs: 2, fully matching: 1
Steps: 12, Match: 11/12 (91.6%), TPS: 3.00

Org/Tiny (bfloat16): CPU against NVIDIA_H200
Different weights: this model does not hold the weights of the reference.
Another config: this model is not built as the model of the reference.
Judged by ulp: the recordings hold no sample of logits that shows noise. Record
    again with this version, and a top-k of at least 8, to have mismatches
    judged by noise.
                            prefill      inject      forced        free
Tokens compared                   2          12           8           6
  after divergence                0           0           0           2
  matching                        2          11           7           5
  match rate                 100.0%       91.6%       87.5%       83.3%
  lower bound (95 %)          22.3%       66.1%       52.9%       41.8%
  ties                            0           1           0           0
  near-ties                       0           0           0           0
  hard flips                      0           0           1           1
Agreed tokens, min                -           2           6           6
Agreed tokens, median             -           2           6           6
Agreed tokens, share              -       78.5%       66.6%       66.6%
Logits bitwise equal         100.0%        0.0%        0.0%        0.0%
Top-1 agreement              100.0%       91.6%       87.5%       83.3%
Top-5 agreement              100.0%       98.3%       97.5%       96.6%
Top-5 accuracy               100.0%      100.0%       87.5%       83.3%
RMS delta p                       0     2.9e-02     3.5e-02     4.1e-02
KL (lower bound) mean             0     2.5e-02     3.5e-02     4.4e-02
KL (lower bound) median           0     4.0e-03     4.0e-03     3.0e-03
KL (lower bound) p99              0     2.5e-01     2.5e-01     2.5e-01
KL (lower bound) max              0     2.5e-01     2.5e-01     2.5e-01
K relative L2                     0     7.1e-03     1.3e-01     5.0e-03
V relative L2                     0     5.0e-03     5.0e-03     5.0e-03
K worst layer                     -  L0 7.1e-03  L3 3.2e-01  L0 5.0e-03
V worst layer                     -  L0 5.0e-03  L0 5.0e-03  L0 5.0e-03
K worst row                       0     1.0e-02     9.0e-01     5.0e-03
V worst row                       0     5.0e-03     5.0e-03     5.0e-03
K scale error                     0           0           0           0
V scale error                     0           0           0           0
K x rounding floor                0        4.79          88        3.39
V x rounding floor                0        3.39        3.39        3.39
K p99 ulp                         0           3           3           3
V p99 ulp                         0           3           3           3
K cosine                          1    0.999975    0.991655    0.999987
V cosine                          1    0.999987    0.999987    0.999987
K Pearson                         1    0.999983    0.994366    0.999991
V Pearson                         1    0.999991    0.999991    0.999991
K Pearson worst layer             1    0.999983    0.966242    0.999991
V Pearson worst layer             1    0.999991    0.999991    0.999991
Amplification (median lower bound of KL, forced / inject): 1
What the pattern means.
forced, batch4_input6: K of layer 3 leaves the profile of the others at position
    7 (step 5): relative L2 0.9, others about 0.005
Worst step of inject: KL (lower bound) 0.25 at batch4_input5, step 1
First divergences of inject: 1 of 2 inputs; agreed tokens: min 2, median 2
    batch4_input5: step 1, tie
Worst step of forced: KL (lower bound) 0.25 at batch4_input6, step 5
First divergences of forced: 1 of 1 input; agreed tokens: min 6, median 6
    batch4_input6: step 5, hard flip
Hard flips of forced: 1
    batch4_input6, step 5: predicted " wrong", recorded " w6", gap 1.5 = 12 ulp
      (a hard flip: over 2 ulp), margin 1.5
Worst step of free: KL (lower bound) 0.25 at batch4_input6, step 5
First divergences of free: 1 of 1 input; agreed tokens: min 6, median 6
    batch4_input6: step 5, hard flip
Hard flips of free: 1
    batch4_input6, step 5: predicted " wrong", recorded " w6", gap 1.5 = 12 ulp
      (a hard flip: over 2 ulp), margin 1.5
Differences that can explain a mismatch:
    torch: recorded 2.13.0, here 2.14.1 - kernels of another version may round
      differently

Gate sample: FAIL (2 of 4 rules failed)
    Made for tests.
  PASS     inject.tokens.match_rate                  0.9167  at least 0.7
  FAIL     inject.kv.key.relative_l2               0.007071  at most 0.001
  FAIL     forced.tokens.hard_flips                       1  at most 0
           worst of 4 for *.tokens.hard_flips, 2 failed
  PASS     forced.kl.p99                               0.25  at most 0.5

Result: FAIL
Next:
    kvtool replay --from out/CPU
)golden");
}

TEST(ConsoleReporter, KeepsTo80Columns) {
  run::InputResult input = hostile_input();
  input.prompt_text +=
      std::string(500, 'x') +
      " 世界世界世界世界世界世界世界世界世界世界世界世界世界世界世界世界世界世界世界世界世界世界";
  input.replay->recording = "a.kvc";
  // Four columns of the widest cells.
  run::InputResult noisy = noise_input();
  noisy.replay->modes.push_back(noisy.replay->modes.back());
  noisy.replay->modes.back().mode = format::ReplayMode::kFree;
  const std::vector<run::InputResult> inputs = {input, three_mode_input(), noisy};
  run::Summary summary = judged(inputs);
  run::Verdict& verdict = summary.verdicts[0];
  for (analysis::ModeSummary& mode : verdict.run.modes) {
    mode.steps.flips = {.measured = 1'000'000,
                        .observed = 98'765,
                        .expected = 98'765.4,
                        .deviation = 312.5,
                        .tail = 1e-300};
  }
  verdict.finding_text = hostile_text() + hostile_text();
  verdict.gate_description = hostile_text() + hostile_text();
  verdict.model_id = verdict.device = hostile_text();
  verdict.gate.gate = hostile_text();
  verdict.gate.rules[0].figure = "inject." + std::string(100, 'x');
  verdict.provenance = {{"k", hostile_text(), hostile_text(), hostile_text(), hostile_text()}};
  for (const bool color : {false, true}) {
    const std::string text = console_run(inputs, summary, {.color = color, .verbose = true});
    EXPECT_EQ(wide_lines(text), std::vector<std::string>());
  }
}

TEST(ConsoleReporter, HostileTextCannotReachTheTerminal) {
  const std::string text = console(hostile_input());
  for (const char* raw : {"\x1b", "\xE2\x80\xAE", "\xFF", "\xC0\x80"}) {
    EXPECT_EQ(text.find(raw), std::string::npos) << raw;
  }
  EXPECT_EQ(text.find('\0'), std::string::npos);
  EXPECT_NE(text.find("\\x1b[31m<script>"), std::string::npos);
}

TEST(ConsoleReporter, APathStaysOnItsLine) {
  const std::string text = console(hostile_input());
  EXPECT_NE(text.find("From:   ref/\\x1b[31m<script>alert(1)</script>]]>|a|`b`\\n\\n# x"),
            std::string::npos)
      << text;
}

TEST(ConsoleReporter, SaysSoWhenTheRecordingHoldsNoStepKv) {
  run::InputResult input = replayed_input();
  input.replay->modes[0].own_step_kv = true;
  EXPECT_NE(console(input).find(
                "        on this device's own K/V: the recording holds none of its steps\n"),
            std::string::npos);
}

TEST(ConsoleReporter, SaysBitwiseEqualPlainly) {
  run::InputResult input = replayed_input();
  run::ModeReplay& mode = input.replay->modes[0];
  for (analysis::TokenComparison& token : mode.comparison.tokens) {
    token.predicted = token.recorded;
    token.verdict = analysis::TokenVerdict::kMatch;
    token.logits_equal = true;
    token.kl = 0.0;
  }
  mode.comparison.step_kv = mode.comparison.prefill_kv;
  EXPECT_NE(console(input).find("inject: 4/4 steps match (100.0%), logits and K/V bitwise equal\n"),
            std::string::npos);
}

TEST(ConsoleReporter, AHardFlipFailsTheDefaultGate) {
  run::InputResult input = replayed_input();
  input.replay->modes[0].comparison.tokens[2].verdict = analysis::TokenVerdict::kHardFlip;
  const std::string text = console(input);
  EXPECT_NE(text.find("Hard flips of inject: 1\n"), std::string::npos);
  EXPECT_NE(text.find("  FAIL     inject.tokens.hard_flips"), std::string::npos);
  EXPECT_EQ(text.find("  PASS"), std::string::npos);
  EXPECT_NE(text.find("\nResult: FAIL\n"), std::string::npos);
}

TEST(ConsoleReporter, ListsTwentyHardFlips) {
  run::InputResult input = replayed_input();
  run::ModeReplay& mode = input.replay->modes[0];
  mode.comparison.tokens[2].verdict = analysis::TokenVerdict::kHardFlip;
  mode.comparison.tokens.resize(28, mode.comparison.tokens[2]);
  mode.texts.resize(28, mode.texts[2]);
  const std::string text = console(input);
  EXPECT_NE(text.find("Hard flips of inject: 24\n"), std::string::npos) << text;
  EXPECT_NE(text.find("    ... and 4 more\n"), std::string::npos) << text;
}

TEST(ConsoleReporter, ListsTenFirstDivergences) {
  std::vector<run::InputResult> inputs(13, replayed_input());
  for (std::size_t i = 0; i < inputs.size(); ++i) inputs[i].input_index = i;
  const std::string text = console_run(inputs, judged(inputs));
  EXPECT_NE(text.find("First divergences of inject: 13 of 13 inputs; agreed tokens: min 2, "),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("    batch4_input9: step 1, tie\n    ... and in 3 inputs more\n"),
            std::string::npos)
      << text;
}

TEST(ConsoleReporter, AMissingFigureIsNamed) {
  const std::vector<run::InputResult> inputs = {replayed_input()};
  const std::string text = console_run(inputs, judged(inputs));
  EXPECT_NE(text.find("  MISSING  forced.kl.p99                                  -  at most 0.5\n"),
            std::string::npos)
      << text;
}

TEST(ConsoleReporter, AFailingFigureIsNeverRoundedOntoItsBound) {
  const std::vector<run::InputResult> inputs = {replayed_input()};
  run::Summary summary = judged(inputs);
  analysis::RuleResult& rule = summary.verdicts[0].gate.rules[0];
  rule.rule = {"inject.tokens.match_rate", 1.0, std::nullopt};
  rule.measured = 0.999996;
  rule.passed = false;
  EXPECT_NE(console_run(inputs, summary).find("0.999996  at least 1\n"), std::string::npos);
}

TEST(ConsoleReporter, AReplayWithoutStepsHasNoRate) {
  run::InputResult input = replayed_input();
  run::ModeReplay& mode = input.replay->modes[0];
  mode.comparison.tokens.resize(1);
  mode.texts.resize(1);
  mode.comparison.step_kv = {};
  input.timing.steps = 0;
  const std::string text = console(input);
  EXPECT_NE(text.find("Steps: 0, Match: 0/0 (n/a), TPS: n/a\n"), std::string::npos);
  EXPECT_NE(text.find("inject: 0/0 steps match (n/a), logits bitwise equal, K/V not compared\n"),
            std::string::npos)
      << text;
}

TEST(ConsoleReporter, OneMissOfThousandsIsNotAHundredPercent) {
  run::InputResult input = replayed_input();
  run::ModeReplay& mode = input.replay->modes[0];
  const analysis::TokenComparison match = mode.comparison.tokens[1];
  mode.comparison.tokens.resize(20001, match);
  mode.texts.resize(20001);
  EXPECT_NE(console(input).find("Match: 19999/20000 (99.9%)"), std::string::npos);
}

TEST(ConsoleReporter, ADiffNamesBothRecordingsAndNoDevice) {
  run::InputResult input = replayed_input();
  input.replay->live = "other/batch4_input5.kvc";
  run::Summary summary = judged({input});
  summary.verdicts[0].provenance = {sample_difference()};
  summary.compared_bytes = 3'000'000'000;
  summary.wall_seconds = 1.5;
  std::ostringstream out;
  const auto reporter = make_console_reporter(out, {});
  reporter->begin({"diff", "0.1.0", ""});
  reporter->input(input);
  reporter->finish(summary);
  EXPECT_EQ(out.str().find("Device:"), std::string::npos);
  EXPECT_NE(out.str().find("Live:   other/batch4_input5.kvc\n"), std::string::npos);
  EXPECT_NE(out.str().find("torch: recorded 2.13.0, live 2.14.1 - "), std::string::npos);
  EXPECT_NE(out.str().find("Compared 3000.00 MB of K/V in 1.50 s (2.00 GB/s)\n"),
            std::string::npos);
}

TEST(ConsoleReporter, SaysWhetherPolicyAndPlatformAreTheSame) {
  run::Summary summary = judged({replayed_input()});
  const auto text = [&] { return console_run({replayed_input()}, summary); };
  EXPECT_EQ(text().find("Numerical policy"), std::string::npos);
  summary.verdicts[0].numerics = sample_agreement();
  EXPECT_NE(
      text().find("\nNumerical policy: the same. Platform: differs in torch; not recorded: CPU.\n"),
      std::string::npos);
  summary.verdicts[0].numerics->policy = {.missing = {"CPU threads"}};
  summary.verdicts[0].numerics->platform = {};
  EXPECT_NE(
      text().find("Numerical policy: cannot be told, not recorded: CPU threads. Platform: the"),
      std::string::npos);
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
  run::InputResult input = generated_input();
  input.prompt_text = std::string(2000, 'x');
  EXPECT_LT(console(input).size(), 1000U);
  EXPECT_GT(console(input, {.verbose = true}).size(), 2000U);
}

}  // namespace
}  // namespace kvtool::report
