#include <gtest/gtest.h>

#include <algorithm>

#include "sample_results.h"

namespace kvtool::report {
namespace {

std::string markdown(const std::function<void(Reporter&)>& calls) {
  std::string written;
  const auto reporter = make_markdown_reporter([&](const std::string& text) { written = text; });
  calls(*reporter);
  return written;
}

std::string run_of(const std::vector<run::InputResult>& inputs) {
  return markdown([&](Reporter& reporter) {
    run::Summary summary = summary_of(inputs);
    summary.verdicts = {verdict_of(inputs, sample_gate(), true)};
    summary.verdicts[0].provenance = {sample_difference()};
    summary.verdicts[0].numerics = sample_agreement();
    summary.verdicts[0].different_weights = true;
    summary.verdicts[0].different_config = true;
    report_run(reporter, inputs, summary);
  });
}

TEST(MarkdownReporter, ShowsThreeModes) {
  EXPECT_EQ(run_of({replayed_input(), three_mode_input()}), R"golden(# kvtool replay: FAIL

- device: CPU (Some CPU)
- model: Org/Tiny (bfloat16, 30 layers)
- 2 inputs, 12 steps, 3.00 tokens/s

## Org/Tiny (bfloat16): CPU against NVIDIA&#95;H200

**Different weights: this model does not hold the weights of the reference.**

**Another config: this model is not built as the model of the reference.**

Numerical policy: the same. Platform: differs in torch; not recorded: CPU.

Judged by ulp: the recordings hold no sample of logits that shows noise. Record again with this version, and a top-k of at least 8, to have mismatches judged by noise.

What the pattern means.

### Gate sample: FAIL

Made for tests.

|  | figure | measured | allowed |
| --- | --- | ---: | --- |
| **FAIL** | <code>inject.kv.key.relative&#95;l2</code> | 0.007071 | at most 0.001 |
| **FAIL** | <code>forced.tokens.hard&#95;flips</code> (worst of 4 for &#42;.tokens.hard&#95;flips, 2 failed) | 1 | at most 0 |
| PASS | <code>inject.tokens.match&#95;rate</code> | 0.9167 | at least 0.7 |
| PASS | <code>forced.kl.p99</code> | 0.25 | at most 0.5 |

### Modes

|  | prefill | inject | forced | free |
| --- | ---: | ---: | ---: | ---: |
| Tokens compared | 2 | 12 | 8 | 6 |
|   after divergence | 0 | 0 | 0 | 2 |
|   matching | 2 | 11 | 7 | 5 |
|   match rate | 100.0% | 91.6% | 87.5% | 83.3% |
|   lower bound (95 %) | 22.3% | 66.1% | 52.9% | 41.8% |
|   ties | 0 | 1 | 0 | 0 |
|   near-ties | 0 | 0 | 0 | 0 |
|   hard flips | 0 | 0 | 1 | 1 |
| Agreed tokens, min | - | 2 | 6 | 6 |
| Agreed tokens, median | - | 2 | 6 | 6 |
| Agreed tokens, share | - | 78.5% | 66.6% | 66.6% |
| Logits bitwise equal | 100.0% | 0.0% | 0.0% | 0.0% |
| Top-1 agreement | 100.0% | 91.6% | 87.5% | 83.3% |
| Top-5 agreement | 100.0% | 98.3% | 97.5% | 96.6% |
| Top-5 accuracy | 100.0% | 100.0% | 87.5% | 83.3% |
| RMS delta p | 0 | 2.9e-02 | 3.5e-02 | 4.1e-02 |
| KL (lower bound) mean | 0 | 2.5e-02 | 3.5e-02 | 4.4e-02 |
| KL (lower bound) median | 0 | 4.0e-03 | 4.0e-03 | 3.0e-03 |
| KL (lower bound) p99 | 0 | 2.5e-01 | 2.5e-01 | 2.5e-01 |
| KL (lower bound) max | 0 | 2.5e-01 | 2.5e-01 | 2.5e-01 |
| K relative L2 | 0 | 7.1e-03 | 1.3e-01 | 5.0e-03 |
| V relative L2 | 0 | 5.0e-03 | 5.0e-03 | 5.0e-03 |
| K worst layer | - | L0 7.1e-03 | L3 3.2e-01 | L0 5.0e-03 |
| V worst layer | - | L0 5.0e-03 | L0 5.0e-03 | L0 5.0e-03 |
| K worst row | 0 | 1.0e-02 | 9.0e-01 | 5.0e-03 |
| V worst row | 0 | 5.0e-03 | 5.0e-03 | 5.0e-03 |
| K scale error | 0 | 0 | 0 | 0 |
| V scale error | 0 | 0 | 0 | 0 |
| K x rounding floor | 0 | 4.79 | 88 | 3.39 |
| V x rounding floor | 0 | 3.39 | 3.39 | 3.39 |
| K p99 ulp | 0 | 3 | 3 | 3 |
| V p99 ulp | 0 | 3 | 3 | 3 |
| K cosine | 1 | 0.999975 | 0.991655 | 0.999987 |
| V cosine | 1 | 0.999987 | 0.999987 | 0.999987 |
| K Pearson | 1 | 0.999983 | 0.994366 | 0.999991 |
| V Pearson | 1 | 0.999991 | 0.999991 | 0.999991 |
| K Pearson worst layer | 1 | 0.999983 | 0.966242 | 0.999991 |
| V Pearson worst layer | 1 | 0.999991 | 0.999991 | 0.999991 |

Amplification (median lower bound of KL, forced / inject): 1

- forced, batch4_input6: K of layer 3 leaves the profile of the others at position 7 (step 5): relative L2 0.9, others about 0.005

First divergences of inject: 1 of 2 inputs; agreed tokens: min 2, median 2

| input | token | class | predicted | recorded | by how much |
| --- | --- | --- | --- | --- | --- |
| batch4_input5 | step 1 | tie | <code>"&#92;n"</code> | <code>" Paris"</code> | gap 0.0625 = 0.5 ulp (a tie: up to 1 ulp), margin 0.0625 |

First divergences of forced: 1 of 1 input; agreed tokens: min 6, median 6

| input | token | class | predicted | recorded | by how much |
| --- | --- | --- | --- | --- | --- |
| batch4_input6 | step 5 | hard flip | <code>" wrong"</code> | <code>" w6"</code> | gap 1.5 = 12 ulp (a hard flip: over 2 ulp), margin 1.5 |

**Hard flips of forced: 1**

| input | token | predicted | recorded | by how much |
| --- | --- | --- | --- | --- |
| batch4_input6 | step 5 | <code>" wrong"</code> | <code>" w6"</code> | gap 1.5 = 12 ulp (a hard flip: over 2 ulp), margin 1.5 |

First divergences of free: 1 of 1 input; agreed tokens: min 6, median 6

| input | token | class | predicted | recorded | by how much |
| --- | --- | --- | --- | --- | --- |
| batch4_input6 | step 5 | hard flip | <code>" wrong"</code> | <code>" w6"</code> | gap 1.5 = 12 ulp (a hard flip: over 2 ulp), margin 1.5 |

**Hard flips of free: 1**

| input | token | predicted | recorded | by how much |
| --- | --- | --- | --- | --- |
| batch4_input6 | step 5 | <code>" wrong"</code> | <code>" w6"</code> | gap 1.5 = 12 ulp (a hard flip: over 2 ulp), margin 1.5 |

### Provenance

| differs | recorded | live | what it can change |
| --- | --- | --- | --- |
| torch | <code>2.13.0</code> | <code>2.14.1</code> | kernels of another version may round differently |

### Failed inputs

<details><summary>batch4_input6 of tiny</summary>

- recording: <code>ref&#95;cache/NVIDIA&#95;H200/tiny/batch4&#95;input6.kvc</code>
- prompt: <code>Hi</code>
- inject: 8/8 steps match (100.0%)
- forced: 7/8 steps match (87.5%), 1 hard flip
  - K of layer 3 leaves the profile of the others at position 7 (step 5): relative L2 0.9, others about 0.005
- free: 5/6 steps match (83.3%), 1 hard flip

| mode | token | class | predicted | recorded | by how much |
| --- | --- | --- | --- | --- | --- |
| forced | step 5 | hard flip | <code>" wrong"</code> | <code>" w6"</code> | gap 1.5 = 12 ulp (a hard flip: over 2 ulp), margin 1.5 |
| free | step 5 | hard flip | <code>" wrong"</code> | <code>" w6"</code> | gap 1.5 = 12 ulp (a hard flip: over 2 ulp), margin 1.5 |

</details>

)golden");
}

TEST(MarkdownReporter, ShowsWhatNoiseExplains) {
  const std::string text = run_of({noise_input()});
  for (const char* part :
       {"\nJudged by measured noise, which explains a gap of up to 4 noise (1 noise: ",
        "\n|   noise flips | 0 | 1 | 1 |\n|   hard flips | 0 | 0 | 1 |\n",
        "\n| Flips observed | 0 | 2 | 2 |\n"
        "|   expected by noise | 0.25 ± 0.43 | 2.0 ± 1.2 | 2.0 ± 1.2 |\n"
        "|   p, noise makes as many | 1 | 0.63 | 0.63 |\n",
        "\n| Noise of logits | 6.2e-02 | 6.2e-02 | 6.2e-02 |\n"
        "|   relative | 2.5e-02 | 2.5e-02 | 2.5e-02 |\n",
        "\n| KL mean, std. error | 0 | 4.4e-03 | 4.4e-03 |\n",
        "\n| KL, few ids in tail | 0.0% | 12.5% | 12.5% |\n",
        "\np: the probability that noise alone makes as many flips, or more. In forced one flip "
        "leads to others: p is shown there and not gated.\n",
        "| batch4_input7 | step 3 | noise | <code>\" other\"</code> | <code>\" w4\"</code> | gap "
        "at "
        "least 0.25, 0.3125 in the live logits = 2.5 ulp = 3.5 noise (noise explains up to 4), "
        "margin 0.25 |\n",
        "\n- inject: 6/8 steps match (75.0%), 1 tie, 1 noise flip\n",
        "gap 1.5 = 12 ulp = 17 noise (a hard flip: over 1 ulp and over 4 noise), margin 1.5 |\n"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << "\n" << text;
  }
  for (const char* other : {"near-tie", "lower bound of KL", "KL (lower bound)", "Judged by ulp"}) {
    EXPECT_EQ(text.find(other), std::string::npos) << other;
  }
}

TEST(MarkdownReporter, TrialsSayWhereMismatchesAreJudgedByUlp) {
  run::SelftestResult selftest = selftest_result();
  run::CalibrationResult calibration = calibration_result();
  selftest.measures_noise = calibration.measures_noise = false;
  const std::string text = markdown([&](Reporter& reporter) {
    reporter.selftest(selftest);
    reporter.calibration(calibration);
    reporter.finish({});
  });
  const std::string line = "\n\nJudged by ulp: the recordings hold no sample of logits";
  const std::size_t first = text.find(line);
  ASSERT_NE(first, std::string::npos) << text;
  EXPECT_NE(text.find(line, first + 1), std::string::npos) << text;
}

TEST(MarkdownReporter, ASelftestSaysHowItWasReplayed) {
  run::SelftestResult result = selftest_result();
  result.shape = run::ReplayShape::kParallel;
  const std::string text = markdown([&](Reporter& reporter) {
    reporter.selftest(result);
    reporter.finish({});
  });
  EXPECT_NE(text.find("\n\nParallel replay: all steps of an input in one pass"), std::string::npos)
      << text;
}

TEST(MarkdownReporter, AnInputWithoutAFailureIsNotFolded) {
  const std::string text =
      markdown([](Reporter& reporter) { report_all(reporter, replayed_input()); });
  EXPECT_TRUE(text.starts_with("# kvtool replay: PASS\n")) << text;
  EXPECT_EQ(text.find("<details>"), std::string::npos);
}

TEST(MarkdownReporter, AGenerationIsNeitherPassNorFail) {
  const std::string text =
      markdown([](Reporter& reporter) { report_all(reporter, generated_input()); });
  EXPECT_TRUE(text.starts_with("# kvtool replay: done\n")) << text;
}

TEST(MarkdownReporter, AnErrorKeepsTheInputsSoFar) {
  const std::string text = markdown([](Reporter& reporter) {
    reporter.begin({"replay", "0.1.0", "2026-01-02T03:04:05Z"});
    reporter.input(hostile_input());
    reporter.fail(4, "a|b\n<i>");
  });
  EXPECT_TRUE(
      text.starts_with("# kvtool replay: ERROR\n\nExit status 4: a&#124;b&#92;n&#60;i&#62;\n"))
      << text;
  EXPECT_NE(text.find("<details><summary>batch4_input5 of tiny</summary>"), std::string::npos);
}

TEST(MarkdownReporter, ShowsASelftest) {
  EXPECT_EQ(markdown([](Reporter& reporter) {
              reporter.begin({"selftest", "0.1.0", ""});
              reporter.selftest(selftest_result());
              reporter.finish({});
            }),
            R"golden(# kvtool selftest: FAIL

## Selftest of tiny: FAIL

Gate 16bit-cross, reference: recorded before the test. The replay without a fault passes.

|  | fault | by | begins | smallest caught | largest missed |
| --- | --- | --- | --- | ---: | ---: |
| caught | V x 1.01 in layer 1 | inject.kv.value.scale&#95;error: measured 0.01, allowed at most 0.001 | V of layer 1 as a whole | 0.002 | 0.001 |
| **MISSED** | the row of step 3 repeats that of step 2 | - | - | - | - |
| skipped | KV heads 0 and 1 swapped | the model has one KV head | - | - | - |

)golden");
}

TEST(MarkdownReporter, ShowsACalibration) {
  EXPECT_EQ(markdown([](Reporter& reporter) {
              reporter.begin({"calibrate", "0.1.0", ""});
              reporter.calibration(calibration_result());
              reporter.finish({});
            }),
            R"golden(# kvtool calibrate: done

## Calibration of Org/Tiny

Reference: CPU, AVX-512, 2 threads. Gate file: <code>gates/tiny.json</code>. Safety factor 4.

| figure | noise | allowed | worst in |
| --- | ---: | --- | --- |
| <code>inject.kl.p99</code> | 0.002 | at most 0.008 | avx2, 1 thread |

| run | seconds |
| --- | ---: |
| avx2, 1 thread | 3.5 |

- One thread count only: the machine has one core.

)golden");
}

TEST(MarkdownReporter, FailuresComeBeforeALongTablesCut) {
  std::vector<run::InputResult> inputs = {replayed_input()};
  run::Summary summary = summary_of(inputs);
  summary.verdicts = {verdict_of(inputs, sample_gate(), true)};
  std::vector<analysis::RuleResult>& rules = summary.verdicts[0].gate.rules;
  rules.insert(rules.begin(), 500, rules.front());
  const std::string text =
      markdown([&](Reporter& reporter) { report_run(reporter, inputs, summary); });
  EXPECT_NE(text.find("**FAIL**"), std::string::npos);
  EXPECT_NE(text.find("**MISSING**"), std::string::npos);
  EXPECT_NE(text.find("… and 304 more."), std::string::npos);
}

TEST(MarkdownReporter, StaysBelowTheLimitOfAJobSummary) {
  run::InputResult input = hostile_input();
  run::ModeReplay& mode = input.replay->modes[0];
  mode.comparison.tokens.resize(40, mode.comparison.tokens[2]);
  mode.texts.resize(40, mode.texts[2]);
  const std::string text = markdown([&](Reporter& reporter) {
    reporter.begin({"replay", "0.1.0", ""});
    for (input.input_index = 0; input.input_index < 1000; ++input.input_index) {
      reporter.input(input);
    }
    reporter.finish(summary_of({}));
  });
  EXPECT_LT(text.size(), 1U << 20U);
  EXPECT_GT(text.size(), 900'000U);
  EXPECT_NE(text.find(" failed inputs left out: the report is limited to 1 MB.\n"),
            std::string::npos);
}

TEST(MarkdownReporter, HostileTextIsTextOnly) {
  const std::string text =
      markdown([](Reporter& reporter) { report_all(reporter, hostile_input()); });
  for (const char* markup : {"<script", "|a|", "`b`", "@user", "[l]", "http://", "www.", " #12",
                             "&amp;", "*end*", "\x1b", "\xE2\x80\xAE", "\xFF"}) {
    EXPECT_EQ(text.find(markup), std::string::npos) << markup;
  }
  EXPECT_EQ(text.find('\0'), std::string::npos);
}

TEST(MarkdownReporter, HostileTextKeepsTheTablesCells) {
  const std::string text =
      markdown([](Reporter& reporter) { report_all(reporter, hostile_input()); });
  const std::size_t row = text.find("| batch4_input5 | step 1 | hard flip |");
  ASSERT_NE(row, std::string::npos);
  const std::string line = text.substr(row, text.find('\n', row) - row);
  EXPECT_EQ(std::count(line.begin(), line.end(), '|'), 7) << line;
}

}  // namespace
}  // namespace kvtool::report
