#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <string_view>

#include "sample_results.h"

namespace kvtool::report {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::Not;

std::string page(const std::function<void(Reporter&)>& run) {
  std::string document;
  const auto reporter = make_html_reporter([&](const std::string& text) { document = text; });
  run(*reporter);
  return document;
}

std::string page_of(const run::InputResult& input) {
  return page([&](Reporter& reporter) { report_all(reporter, input); });
}

std::size_t occurrences(std::string_view text, std::string_view part) {
  std::size_t count = 0;
  for (std::size_t at = 0; (at = text.find(part, at)) != std::string_view::npos; ++at) ++count;
  return count;
}

// What stands in the script element of this id.
json data(const std::string& document, const std::string& id) {
  const std::string begin = "<script type=\"application/json\" id=\"" + id + "\">";
  const std::size_t at = document.find(begin);
  if (at == std::string::npos) throw std::runtime_error("no element " + id);
  const std::size_t from = at + begin.size();
  return json::parse(document.substr(from, document.find("</script>", from) - from));
}

// The reader of packed_floats.h, as numbers.js has it.
std::vector<float> unpacked(const std::string& text) {
  constexpr std::string_view kAlphabet =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::vector<float> values;
  for (std::size_t i = 0; i + 2 < text.size(); i += 3) {
    std::uint32_t bits = 0;
    for (std::size_t k = 0; k < 3; ++k) {
      bits = bits << 6U | static_cast<std::uint32_t>(kAlphabet.find(text[i + k]));
    }
    values.push_back(std::bit_cast<float>(bits << 14U));
  }
  return values;
}

TEST(HtmlReporter, ForbidsEveryRequest) {
  const std::string document = page_of(replayed_input());
  EXPECT_THAT(
      document,
      HasSubstr("<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; "
                "style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:\">"));
  EXPECT_LT(document.find("Content-Security-Policy"), document.find("<script"));
  EXPECT_LT(document.find("Content-Security-Policy"), document.find("<style"));
  for (const char* leaving : {" src=", "@import", "url(", "fetch(", "XMLHttpRequest", "innerHTML",
                              "insertAdjacentHTML", "document.write", "eval("}) {
    EXPECT_THAT(document, Not(HasSubstr(leaving)));
  }
}

TEST(HtmlReporter, IsOneFilledPage) {
  const std::string document = page_of(replayed_input());
  EXPECT_TRUE(document.starts_with("<!DOCTYPE html>"));
  EXPECT_TRUE(document.ends_with("</html>\n"));
  EXPECT_THAT(document, Not(HasSubstr("<!--kvtool:")));
  EXPECT_EQ(occurrences(document, "<script"), 3U);  // overview, one input, program
  EXPECT_EQ(occurrences(document, "</script"), 3U);
}

TEST(HtmlReporter, ShowsResultFindingAndGateWithoutScripts) {
  const run::InputResult input = replayed_input();
  run::Summary summary = summary_of({input});
  summary.verdicts = {verdict_of({input}, sample_gate(), true)};
  summary.verdicts[0].provenance = {sample_difference()};
  summary.verdicts[0].numerics = sample_agreement();
  const std::string document =
      page([&](Reporter& reporter) { report_run(reporter, {input}, summary); });
  EXPECT_THAT(document, HasSubstr("<title>kvtool replay: FAIL – Org/Tiny</title>"));
  EXPECT_THAT(document, HasSubstr("<span class=\"badge fail\">✗ FAIL</span>"));
  EXPECT_THAT(document, HasSubstr("<p class=\"finding\">What the pattern means.</p>"));
  // 3 of 4 step tokens match: 0.75 uses 0.25 of the 0.3 that 0.7 leaves.
  EXPECT_THAT(document, HasSubstr("<code>inject.tokens.match_rate</code>"));
  EXPECT_THAT(document, HasSubstr("style=\"width:83.3%\""));
  // 0.01 against 0.001.
  EXPECT_THAT(document, HasSubstr("<code>inject.kv.key.relative_l2</code>"));
  EXPECT_THAT(document, HasSubstr("<span class=\"share\">10×</span>"));
  EXPECT_THAT(document, HasSubstr("✗ MISSING"));
  EXPECT_LT(document.find("<code>inject.kv.key.relative_l2</code>"),
            document.find("<code>inject.tokens.match_rate</code>"))
      << "failed rules come first";
  EXPECT_THAT(document, HasSubstr("<td><del>2.13.0</del></td><td><ins>2.14.1</ins></td>"));
  EXPECT_THAT(document, HasSubstr("<p>Numerical policy: the same. Platform: differs in torch; not "
                                  "recorded: CPU.</p>"));
}

TEST(HtmlReporter, APassIsABadgeOfItsOwn) {
  const std::string document = page_of(replayed_input());
  EXPECT_THAT(document, HasSubstr("<span class=\"badge pass\">✓ PASS</span>"));
  EXPECT_THAT(document, Not(HasSubstr("class=\"badge fail\"")));
}

// Of 4 steps one has a delta of -0.1; nothing has a hundred ids.
TEST(HtmlReporter, ShowsThePublishedFiguresThatWereMeasured) {
  const std::string document = page_of(replayed_input());
  EXPECT_THAT(document, HasSubstr("<tr><th scope=\"row\">Top-5 accuracy</th>"
                                  "<td class=\"number\">100 %</td>"
                                  "<td class=\"number\">100 %</td></tr>"));
  EXPECT_THAT(document,
              HasSubstr("<tr><th scope=\"row\">RMS Δp of the recorded token</th>"
                        "<td class=\"number\">0</td><td class=\"number\">0.05</td></tr>"));
  EXPECT_THAT(document, Not(HasSubstr("Top-100")));
}

TEST(HtmlReporter, ListsHardFlipsWithTheirTexts) {
  const std::string document = page_of(three_mode_input());
  EXPECT_THAT(document, HasSubstr("<a href=\"#tiny_batch4_input6\">batch4_input6</a>"));
  EXPECT_THAT(document, HasSubstr("&quot; w6&quot; <span class=\"quiet\">16</span>"));
  EXPECT_THAT(document, HasSubstr("&quot; wrong&quot; <span class=\"quiet\">40</span>"));
}

TEST(HtmlReporter, KeepsATokensClassMarginAndDistribution) {
  const json input = data(page_of(replayed_input()), "input-0");
  EXPECT_EQ(input["tokens"]["ids"], json({10, 11, 12, 13, 14}));
  EXPECT_THAT(unpacked(input["tokens"]["margins"]),
              testing::ElementsAre(2.0F, 2.0F, 0.0625F, 2.0F, 2.0F));
  EXPECT_THAT(unpacked(input["tokens"]["ulps"]), testing::Each(0.125F));
  const json& mode = input["modes"][0];
  EXPECT_EQ(mode["mode"], "inject");
  EXPECT_EQ(mode["letters"], "emtmm");
  const std::vector<float> kl = unpacked(mode["kl"]["values"]);
  ASSERT_EQ(kl.size(), 5U);
  EXPECT_EQ(kl[0], 0.0F);
  EXPECT_NEAR(kl[1], 0.001F, 1e-6F);
  EXPECT_EQ(kl[2], 0.25F);
  EXPECT_EQ(mode["mismatches"], json({{"2", {40, "\n", "0.0625 = 0.5 ulp (a tie: up to 1 ulp)"}}}));
  EXPECT_EQ(mode["top5"], json({{"2", 0.8}}));
  EXPECT_FALSE(mode.contains("noise")) << "the recording holds no sample";
  EXPECT_FALSE(mode["kl"].contains("errors")) << "so that KL is a lower bound";
  EXPECT_EQ(input["near_tie_ulps"], 2.0);
}

TEST(HtmlReporter, ShowsWhatNoiseExplains) {
  const std::string document = page_of(noise_input());
  EXPECT_THAT(document, HasSubstr("<p class=\"quiet\">Judged by measured noise, which explains a "
                                  "gap of up to 4 noise"));
  EXPECT_THAT(document, HasSubstr("<div class=\"tile-value\">1/1/0</div>"));
  EXPECT_THAT(document, HasSubstr("ties / noise flips / hard flips (inject)"));
  EXPECT_THAT(document,
              HasSubstr("2.0 ± 1.2 expected by noise; probability that it makes as many: 0.63"));
  EXPECT_THAT(document, HasSubstr("nats, estimate (inject)"));
  EXPECT_THAT(document, HasSubstr("<tr><th scope=\"row\">Noise flips</th>"));
  EXPECT_THAT(document, HasSubstr("<tr><th scope=\"row\">KL, mean (nats)</th>"));
  EXPECT_THAT(document, HasSubstr("p: the probability that noise alone makes as many flips"));
  EXPECT_THAT(document, HasSubstr("<td>1.5 = 12 ulp = 17 noise (a hard flip: over 1 ulp and over "
                                  "4 noise)</td>"));
  for (const char* other : {"Near-ties", "lower bound)", "KL ≥", "class=\"notice\""}) {
    EXPECT_THAT(document.substr(0, document.find("id=\"report-data\"")), Not(HasSubstr(other)));
  }
}

TEST(HtmlReporter, KeepsATokensNoiseAndEstimateOfKl) {
  const std::string document = page_of(noise_input());
  const json input = data(document, "input-0");
  const json& mode = input["modes"][0];
  EXPECT_EQ(mode["letters"], "emmtmommm");
  EXPECT_EQ(input["modes"][1]["letters"], "emmmomhmm");
  EXPECT_THAT(unpacked(mode["noise"]["noises"]), testing::Each(0.0625F));
  EXPECT_NEAR(unpacked(mode["noise"]["bounds"])[0], 4.0 * std::sqrt(2.0) * 0.0625, 1e-4);
  EXPECT_EQ(mode["noise"]["z"], 4.0);
  EXPECT_NEAR(unpacked(mode["kl"]["values"])[2], 0.004F, 1e-5F);
  EXPECT_NEAR(unpacked(mode["kl"]["errors"])[2], 0.0002F, 1e-6F);
  EXPECT_EQ(mode["kl"]["unreliable"], json({1}));
  const json line = data(document, "report-data")["inputs"][0];
  EXPECT_EQ(line["counts"], json({1, 2, 0, 1, 0}));
  EXPECT_EQ(line["by_noise"], true);
  EXPECT_EQ(line["kl"], 0.5);
  EXPECT_EQ(line["kl_estimated"], true);
}

TEST(HtmlReporter, ShowsRowsThatARouterExplains) {
  const run::InputResult input = noise_input();
  run::Summary summary = summary_of({input});
  summary.verdicts = {verdict_of({input}, sample_gate(), true)};
  const auto document = [&] {
    return page([&](Reporter& reporter) { report_run(reporter, {input}, summary); });
  };
  EXPECT_THAT(document(), Not(HasSubstr("a router explains")));
  summary.verdicts[0].run.modes[0].steps.kv.rerouted_rows = 1;
  summary.verdicts[0].figures["inject.kv.rerouted_rate"] = 0.125;
  EXPECT_THAT(document(), HasSubstr("<tr><th scope=\"row\">Positions whose rows a router explains"
                                    "</th><td class=\"number\">0.00 %</td>"
                                    "<td class=\"number\">12.50 %</td>"));
  EXPECT_THAT(document(), HasSubstr("<th scope=\"row\">K worst of the other rows</th>"));
}

TEST(HtmlReporter, SaysWhereMismatchesAreJudgedByUlp) {
  const std::string document = page_of(replayed_input());
  EXPECT_EQ(occurrences(document,
                        "<p class=\"notice\">Judged by ulp: the recordings hold no "
                        "sample of logits"),
            1U);
  EXPECT_THAT(document, HasSubstr("ties / near-ties / hard flips (inject)"));
  EXPECT_THAT(document, HasSubstr("<tr><th scope=\"row\">Near-ties</th>"));
  EXPECT_THAT(document, HasSubstr("KL (lower bound), p99 (nats)"));
  EXPECT_THAT(document, HasSubstr("nats, lower bound (inject)"));
  EXPECT_THAT(document, Not(HasSubstr("<th scope=\"row\">Noise")));
  EXPECT_THAT(document, Not(HasSubstr("expected by noise")));
}

TEST(HtmlReporter, ACharacterOfSeveralTokensStandsAtItsLast) {
  const json input = data(page_of(replayed_input()), "input-0");
  EXPECT_EQ(input["tokens"]["texts"], json({"A", "€", " Paris", " is", "."}));
}

TEST(HtmlReporter, ACharacterThatNeverEndsIsShownAsBytes) {
  run::InputResult input = replayed_input();
  auto& texts = input.replay->modes[0].texts;
  texts[0].recorded = "\xE2x";
  texts[4].recorded = "y\xE2\x82";
  const json shown = data(page_of(input), "input-0")["tokens"]["texts"];
  EXPECT_EQ(shown[0], "\\xe2x");
  EXPECT_EQ(shown[4], "y\\xe2\\x82");
}

TEST(HtmlReporter, NumbersThatAreNotFiniteKeepTheirKind) {
  run::InputResult input = replayed_input();
  auto& tokens = input.replay->modes[0].comparison.tokens;
  tokens[0].margin = std::nan("");
  tokens[1].margin = std::numeric_limits<double>::infinity();
  tokens[2].gap = std::nan("");
  tokens[3].nonfinite = true;
  tokens[3].kl = std::nan("");
  const json result = data(page_of(input), "input-0");
  const std::vector<float> margins = unpacked(result["tokens"]["margins"]);
  EXPECT_TRUE(std::isnan(margins[0]));
  EXPECT_TRUE(std::isinf(margins[1]));
  EXPECT_EQ(result["modes"][0]["mismatches"]["2"][2], "unknown");
  EXPECT_EQ(result["modes"][0]["letters"], "emtxm");
  EXPECT_TRUE(std::isnan(unpacked(result["modes"][0]["kl"]["values"])[3]));
}

TEST(HtmlReporter, StepsAfterThePartingAreNotCompared) {
  const json input = data(page_of(three_mode_input()), "input-0");
  EXPECT_EQ(input["modes"][1]["letters"], "emmmmmhmm");
  EXPECT_EQ(input["modes"][2]["letters"], "emmmmmhuu");
  EXPECT_EQ(input["modes"][2]["own_text"], " wrong way");
  EXPECT_EQ(input["tokens"]["ids"].size(), 9U) << "of the mode that compared most";
}

TEST(HtmlReporter, HeatmapsHoldLayersBlocksAndFigures) {
  const json input = data(page_of(three_mode_input()), "input-0");
  const json& steps = input["modes"][0]["steps"];
  EXPECT_EQ(steps["rows"], 6);
  EXPECT_EQ(steps["columns"], 2);
  EXPECT_EQ(steps["width"], 4);
  EXPECT_EQ(steps["positions"], 8);
  EXPECT_EQ(steps["first"], 2) << "steps follow the prompt of two tokens";
  EXPECT_EQ(steps["key"]["states"], std::string(12, '~'));
  const std::vector<float> figures = unpacked(steps["key"]["figures"]);
  ASSERT_EQ(figures.size(), 12U * 6U);
  EXPECT_NEAR(figures[0], 0.005F, 1e-5F);  // relative L2
  EXPECT_NEAR(figures[1], 0.01F, 2e-5F);   // relative max: twice that by the sample
  EXPECT_EQ(figures[4], 3.0F);             // ulp p99
  EXPECT_EQ(figures[5], 0.25F);            // one of four elements differs
  // bf16: 2^-8 / sqrt(7).
  EXPECT_NEAR(unpacked(steps["floor"])[0], 0.0014764F, 2e-6F);
  const json& departure = input["modes"][1]["steps"]["departure"];
  EXPECT_EQ(departure["kind"], "key");
  EXPECT_EQ(departure["layer"], 3);
}

TEST(HtmlReporter, BitwiseEqualHeatmapsTakeOneLetter) {
  const json input = data(page_of(replayed_input()), "input-0");
  EXPECT_EQ(input["prefill"]["key"], json({{"states", "="}}));
}

TEST(HtmlReporter, NonfiniteCellsAreMarkedAndCounted) {
  run::InputResult input = replayed_input();
  analysis::KvError bad;
  bad.elements = 4;
  bad.nonfinite = bad.differing = 3;
  input.replay->modes[0].comparison.prefill_kv.add(analysis::KvKind::kValue, 1, 0, 0, bad);
  const json value = data(page_of(input), "input-0")["prefill"]["value"];
  EXPECT_EQ(value["states"], "=!====");
  EXPECT_EQ(value["nonfinite"], json({{"1", 3}}));
}

TEST(HtmlReporter, WithoutKvThereIsNoHeatmap) {
  run::InputResult input = replayed_input();
  input.replay->modes[0].comparison.prefill_kv = {};
  input.replay->modes[0].comparison.step_kv = {};
  const json result = data(page_of(input), "input-0");
  EXPECT_TRUE(result["prefill"].is_null());
  EXPECT_TRUE(result["modes"][0]["steps"].is_null());
}

TEST(HtmlReporter, TheOverviewPoolsHeadsAndListsTheInputs) {
  const json overview = data(page_of(three_mode_input()), "report-data");
  const json& verdict = overview["verdicts"][0];
  EXPECT_EQ(verdict["stretches"].size(), 4U);
  EXPECT_EQ(verdict["stretches"][1]["heads"]["axis"], "head");
  EXPECT_EQ(verdict["stretches"][1]["heads"]["columns"], 2);
  EXPECT_EQ(verdict["divergences"][1]["at"], json({6}));
  const json& line = overview["inputs"][0];
  EXPECT_EQ(line["counts"], json({0, 0, 0, 2, 0}));
  EXPECT_EQ(line["by_noise"], false);
  EXPECT_EQ(line["kl_estimated"], false);
  EXPECT_EQ(line["strips"][2], "emmmmmhuu");
}

TEST(HtmlReporter, HostileTextCannotLeaveItsPlace) {
  const std::string harmless = page_of(replayed_input());
  for (const std::string& text :
       {hostile_text(), std::string("</script><img src=x onerror=alert(1)><!--kvtool:script-->"),
        std::string("\"' onmouseover=alert(1) `${alert(1)}` <!--<script>"),
        std::string("a\u2028b\u2029c\xFF\xC0\x80")}) {
    run::InputResult input = hostile_input();
    input.prompt_text = input.replay->recording = input.model_slug = text;
    input.replay->recorded_device = text;
    for (run::TokenText& token : input.replay->modes[0].texts) token = {text, text};
    run::Summary summary = summary_of({input});
    summary.verdicts = {verdict_of({input}, sample_gate(), true)};
    run::Verdict& verdict = summary.verdicts[0];
    verdict.model_id = verdict.model_slug = verdict.device = verdict.reference_device = text;
    verdict.finding_text = verdict.gate_description = verdict.gate.gate = text;
    verdict.provenance = {{text, text, text, text, text}};
    const std::string document = page([&](Reporter& reporter) {
      reporter.begin({"replay", text, text});
      reporter.device({text, text, text, text, json({{"key", "x"}}).dump()});
      reporter.model({text, text, text, text, text, 2, text});
      reporter.input(input);
      reporter.finish(summary);
    });
    SCOPED_TRACE(text);
    EXPECT_EQ(occurrences(document, text), 0U);
    for (const char* raw : {"<script>alert", "<img", "onerror=alert(1)>", "</script><img", "\x1b",
                            "\xE2\x80\xAE", "\u2028", "\u2029", "\xFF", "\xC0\x80", "<!--<"}) {
      EXPECT_EQ(occurrences(document, raw), 0U) << raw;
    }
    for (const char* tag : {"<script", "</script", "<!--", "\" on"}) {
      EXPECT_EQ(occurrences(document, tag), occurrences(harmless, tag)) << tag;
    }
    EXPECT_EQ(data(document, "input-0")["name"], "batch4_input5");
  }
}

TEST(HtmlReporter, StaysSmallForEachToken) {
  const auto size = [](std::uint64_t tokens) {
    run::InputResult input = replayed_input();
    run::ModeReplay& mode = input.replay->modes[0];
    mode.comparison.tokens.resize(tokens, mode.comparison.tokens[1]);
    mode.texts.resize(tokens, {" word", ""});
    // 32 layers, as in a model of 8 billion parameters.
    analysis::KvProfile profile(std::vector<std::uint32_t>(32, 8),
                                analysis::choose_block_positions(tokens));
    analysis::KvError error;
    error.elements = 128;
    error.differing = 100;
    error.sum_squared_reference = error.max_reference = error.max_abs = 1.0;
    error.sum_squared_error = 1e-5;
    for (const analysis::KvKind kind : analysis::kKvKinds) {
      for (std::size_t layer = 0; layer < 32; ++layer) {
        for (std::uint64_t position = 0; position + 1 < tokens; ++position) {
          profile.add(kind, layer, 0, position, error);
        }
      }
    }
    mode.comparison.step_kv = profile;
    return static_cast<double>(page_of(input).size());
  };
  EXPECT_LT((size(600) - size(100)) / 500.0, 150.0);
}

TEST(HtmlReporter, AnErrorKeepsWhatWasCompared) {
  const std::string document = page([](Reporter& reporter) {
    reporter.begin({"replay", "0.1.0", ""});
    reporter.input(replayed_input());
    reporter.fail(4, "ref/<b>.kvc: corrupt");
  });
  EXPECT_THAT(document, HasSubstr("<span class=\"badge error\">⚠ ERROR</span>"));
  EXPECT_THAT(document, HasSubstr("(exit status 4)"));
  EXPECT_THAT(document, HasSubstr("ref/&lt;b&gt;.kvc: corrupt"));
  EXPECT_EQ(data(document, "input-0")["name"], "batch4_input5");
  EXPECT_TRUE(data(document, "report-data")["verdicts"].empty());
}

TEST(HtmlReporter, ASelftestShowsEachFault) {
  const std::string document = page([](Reporter& reporter) {
    reporter.begin({"selftest", "0.1.0", ""});
    reporter.selftest(selftest_result());
    reporter.finish({});
  });
  EXPECT_THAT(document, HasSubstr("1 of 2 injected faults caught"));
  EXPECT_THAT(document, HasSubstr("<span class=\"badge fail\">"));
  EXPECT_THAT(document, HasSubstr("✗ MISSED"));
  EXPECT_THAT(document, HasSubstr("inject.kv.value.scale_error"));
  EXPECT_THAT(document, HasSubstr("the model has one KV head"));
  EXPECT_THAT(document, HasSubstr("0.002 <span class=\"quiet\">(0.001 passes)</span>"));
}

TEST(HtmlReporter, ACalibrationShowsLimitsAndEvidence) {
  const std::string document = page([](Reporter& reporter) {
    reporter.begin({"calibrate", "0.1.0", ""});
    reporter.calibration(calibration_result());
    reporter.finish({});
  });
  EXPECT_THAT(document, HasSubstr("<code>gates/tiny.json</code>"));
  EXPECT_THAT(document, HasSubstr("<td class=\"number\">0.002</td>"));
  EXPECT_THAT(document, HasSubstr("≤ 0.008"));
  EXPECT_THAT(document, HasSubstr("One thread count only"));
  EXPECT_THAT(document, HasSubstr("<code>inject.kl.p99</code>"));
  EXPECT_THAT(document, Not(HasSubstr("Judged by ulp")));
}

TEST(HtmlReporter, TrialsSayWhereMismatchesAreJudgedByUlp) {
  run::SelftestResult selftest = selftest_result();
  run::CalibrationResult calibration = calibration_result();
  selftest.measures_noise = calibration.measures_noise = false;
  const std::string document = page([&](Reporter& reporter) {
    reporter.selftest(selftest);
    reporter.calibration(calibration);
    reporter.finish({});
  });
  EXPECT_EQ(occurrences(document, "<p class=\"notice\">Judged by ulp: "), 2U);
}

TEST(HtmlReporter, ASelftestSaysHowItWasReplayed) {
  run::SelftestResult result = selftest_result();
  result.shape = run::ReplayShape::kSingle;
  const std::string document = page([&](Reporter& reporter) {
    reporter.selftest(result);
    reporter.finish({});
  });
  EXPECT_EQ(occurrences(document, "<p class=\"notice\">One input at a time: other kernels"), 1U);
}

TEST(HtmlReporter, ACalibrationShowsTheEstimateOfKl) {
  run::CalibrationResult result = calibration_result();
  result.runs[0].figures["inject.kl_estimate.p99"] = 0.003;
  const std::string document = page([&](Reporter& reporter) {
    reporter.calibration(result);
    reporter.finish({});
  });
  EXPECT_THAT(document, HasSubstr("<code>inject.kl_estimate.p99</code>"));
  EXPECT_THAT(document, HasSubstr("<td class=\"number\">0.003</td>"));
}

TEST(HtmlReporter, AGeneratedInputNeedsNoComparison) {
  const std::string document = page_of(generated_input());
  EXPECT_THAT(document, HasSubstr("<title>kvtool replay: done"));
  const json input = data(document, "input-0");
  EXPECT_EQ(input["generated"], "one two\\x1b[2J");
  EXPECT_FALSE(input.contains("tokens"));
}

}  // namespace
}  // namespace kvtool::report
