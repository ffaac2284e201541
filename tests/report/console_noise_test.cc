// What the console shows of recordings that hold a sample of logits.
#include <gtest/gtest.h>

#include <limits>
#include <sstream>

#include "sample_results.h"

namespace kvtool::report {
namespace {

TEST(ConsoleNoise, ShowsWhatNoiseExplains) {
  std::ostringstream out;
  report_all(*make_console_reporter(out, {}), noise_input());
  const std::string text = out.str();
  for (const char* part : {R"golden(
inject: 6/8 steps match (75.0%), 1 tie, 1 noise flip, K 5.0e-03 V 5.0e-03, KL
        p99 5.0e-01
        first divergence: step 2, tie
          predicted " other" (id 40), recorded " w3" (id 13)
          gap 0.0625 = 0.5 ulp = 0.71 noise (a tie: up to 1 ulp), margin 0.0625
forced: 6/8 steps match (75.0%), 1 noise flip, 1 hard flip, K 5.0e-03 V 5.0e-03,
        KL p99 5.0e-01
        first divergence: step 3, noise
          predicted " other" (id 40), recorded " w4" (id 14)
          gap at least 0.25, 0.3125 in the live logits = 2.5 ulp = 3.5 noise
          (noise explains up to 4), margin 0.25
)golden",
                           R"golden(
Judged by measured noise, which explains a gap of up to 4 noise (1 noise: the
    measured standard deviation of the difference of two logits).
                              prefill       inject       forced
Tokens compared                     1            8            8
  matching                          1            6            6
  match rate                   100.0%        75.0%        75.0%
  lower bound (95 %)             5.0%        40.0%        40.0%
  ties                              0            1            0
  noise flips                       0            1            1
  hard flips                        0            0            1
Flips observed                      0            2            2
  expected by noise       0.25 ± 0.43    2.0 ± 1.2    2.0 ± 1.2
  p, noise makes as many            1         0.63         0.63
Hard flips observed                 0            0            1
  expected by noise                 0            0            0
  p, noise makes as many            1            1            0
Agreed)golden",
                           R"golden(
Noise of logits               6.2e-02      6.2e-02      6.2e-02
  relative                    2.5e-02      2.5e-02      2.5e-02
KL mean                             0      1.3e-01      1.3e-01
KL mean, std. error                 0      4.4e-03      4.4e-03
KL median                           0      1.2e-02      1.0e-02
KL p99                              0      5.0e-01      5.0e-01
KL max                              0      5.0e-01      5.0e-01
KL, few ids in tail              0.0%        12.5%        12.5%
)golden",
                           R"golden(
p: the probability that noise alone makes as many flips, or more. In forced one
    flip leads to others: p is shown there and not gated.
Amplification (median KL, forced / inject): 0.833
)golden",
                           R"golden(
Hard flips of forced: 1
    batch4_input7, step 5: predicted " other", recorded " w6", gap 1.5 = 12 ulp
      = 17 noise (a hard flip: over 1 ulp and over 4 noise), margin 1.5
)golden"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << text;
  }
  EXPECT_EQ(text.find("near-tie"), std::string::npos) << text;
}

TEST(ConsoleNoise, NamesTheTokensWhoseNoiseIsKnownWhereItIsNotAll) {
  run::InputResult input = noise_input();
  analysis::TokenComparison& token = input.replay->modes[0].comparison.tokens[8];
  token.flip_probability = std::numeric_limits<double>::quiet_NaN();
  std::ostringstream out;
  report_all(*make_console_reporter(out, {}), input);
  EXPECT_NE(out.str().find("\nFlips observed                      0            2            2\n"
                           "  of tokens with noise              1            7            8\n"),
            std::string::npos)
      << out.str();
}

TEST(ConsoleNoise, ShowsRowsThatARouterExplains) {
  const run::InputResult input = noise_input();
  run::Summary summary = summary_of({input});
  summary.verdicts = {verdict_of({input}, sample_gate(), true)};
  run::Verdict& verdict = summary.verdicts[0];
  const auto text = [&] {
    std::ostringstream out;
    report_run(*make_console_reporter(out, {}), {input}, summary);
    return out.str();
  };
  EXPECT_EQ(text().find("routed"), std::string::npos) << "0 is not worth a row";
  verdict.run.modes[0].steps.kv.rerouted_rows = 1;
  verdict.figures["inject.kv.rerouted_rate"] = 0.125;
  verdict.figures["inject.kv.key.unrouted_row_max.relative_l2"] = 0.004;
  EXPECT_NE(text().find("\nRerouted positions               0.0%        12.5%         0.0%\n"),
            std::string::npos)
      << text();
  EXPECT_NE(text().find("\nK worst row, unrouted               0      4.0e-03      5.0e-03\n"),
            std::string::npos)
      << text();
}

}  // namespace
}  // namespace kvtool::report
