#include <gtest/gtest.h>

#include <limits>
#include <pugixml.hpp>

#include "sample_results.h"

namespace kvtool::report {
namespace {

std::string junit(const std::function<void(Reporter&)>& calls) {
  std::string written;
  const auto reporter = make_junit_reporter([&](const std::string& text) { written = text; });
  calls(*reporter);
  return written;
}

std::string three_modes() {
  return junit([](Reporter& reporter) {
    const std::vector<run::InputResult> inputs = {replayed_input(), three_mode_input()};
    run::Summary summary = summary_of(inputs);
    summary.verdicts = {verdict_of(inputs, sample_gate(), true)};
    report_run(reporter, inputs, summary);
  });
}

pugi::xml_document parsed(const std::string& text) {
  pugi::xml_document document;
  const pugi::xml_parse_result result = document.load_string(text.c_str());
  EXPECT_TRUE(result) << result.description() << "\n" << text;
  return document;
}

std::size_t count(const pugi::xml_document& document, const std::string& path) {
  return document.select_nodes(path.c_str()).size();
}

TEST(JunitReporter, HasOneCaseForEachInputAndGateRule) {
  EXPECT_EQ(three_modes(), R"golden(<?xml version="1.0" encoding="UTF-8"?>
<testsuites name="kvtool replay" tests="6" failures="3" errors="0" skipped="0" time="2.250">
  <testsuite name="tiny" tests="2" failures="1" errors="0" skipped="0" time="2.250" timestamp="2026-01-02T03:04:05" hostname="CPU">
    <testcase classname="tiny" name="batch4_input5" time="0.562" />
    <testcase classname="tiny" name="batch4_input6" time="1.688">
      <failure message="forced, step 5: predicted &quot; wrong&quot;, recorded &quot; w6&quot;, gap 1.5 = 12 ulp (a hard flip: over 2 ulp), margin 1.5" type="comparison">forced, step 5: predicted " wrong", recorded " w6", gap 1.5 = 12 ulp (a hard flip: over 2 ulp), margin 1.5
free, step 5: predicted " wrong", recorded " w6", gap 1.5 = 12 ulp (a hard flip: over 2 ulp), margin 1.5
recording: ref_cache/NVIDIA_H200/tiny/batch4_input6.kvc</failure>
    </testcase>
  </testsuite>
  <testsuite name="tiny.gate" tests="4" failures="2" errors="0" skipped="0" time="0.000" timestamp="2026-01-02T03:04:05" hostname="CPU">
    <properties>
      <property name="gate" value="sample" />
      <property name="finding" value="What the pattern means." />
      <property name="reference_device" value="NVIDIA_H200" />
      <property name="device" value="CPU" />
      <property name="judged" value="Judged by ulp: the recordings hold no sample of logits that shows noise. Record again with this version, and a top-k of at least 8, to have mismatches judged by noise." />
    </properties>
    <testcase classname="tiny.gate" name="inject.tokens.match_rate" time="0.000" />
    <testcase classname="tiny.gate" name="inject.kv.key.relative_l2" time="0.000">
      <failure message="inject.kv.key.relative_l2: measured 0.007071, allowed at most 0.001" type="gate" />
    </testcase>
    <testcase classname="tiny.gate" name="*.tokens.hard_flips" time="0.000">
      <failure message="forced.tokens.hard_flips: measured 1, allowed at most 0 (*.tokens.hard_flips: 2 of 4 figures fail)" type="gate">forced.tokens.hard_flips
free.tokens.hard_flips
</failure>
    </testcase>
    <testcase classname="tiny.gate" name="forced.kl.p99" time="0.000" />
  </testsuite>
</testsuites>
)golden");
}

TEST(JunitReporter, PropertiesSayWhereTheTwoSidesDiffer) {
  run::Summary summary = summary_of({replayed_input()});
  summary.verdicts = {verdict_of({replayed_input()}, sample_gate(), true)};
  summary.verdicts.front().different_weights = true;
  summary.verdicts.front().different_config = true;
  summary.verdicts.front().provenance = {sample_difference()};
  summary.verdicts.front().numerics = sample_agreement();
  summary.missing = {"a/batch1_input7.kvc"};
  const pugi::xml_document document =
      parsed(junit([&](Reporter& reporter) { report_run(reporter, {replayed_input()}, summary); }));
  EXPECT_EQ(count(document, "//property[@name='different_weights']"), 1U);
  EXPECT_EQ(count(document, "//property[@name='different_config']"), 1U);
  EXPECT_EQ(count(document,
                  "//property[@name='provenance: torch'][@value='recorded 2.13.0, here 2.14.1']"),
            1U);
  EXPECT_EQ(count(document,
                  "//property[@name='numerics'][@value='Numerical policy: the same. Platform: "
                  "differs in torch; not recorded: CPU.']"),
            1U);
  EXPECT_EQ(count(document, "//testcase[@name='a/batch1_input7.kvc']/failure[@type='missing']"),
            1U);
}

TEST(JunitReporter, SaysWhatNoiseExplains) {
  const pugi::xml_document document =
      parsed(junit([](Reporter& reporter) { report_all(reporter, noise_input()); }));
  const auto property = [&](const std::string& name) -> std::string {
    const std::string path = "//property[@name='" + name + "']";
    return document.select_node(path.c_str()).node().attribute("value").value();
  };
  EXPECT_EQ(property("judged"),
            "Judged by measured noise, which explains a gap of up to 4 noise (1 noise: the "
            "measured standard deviation of the difference of two logits).");
  EXPECT_EQ(property("flips: inject"), "2 observed, 2.0 ± 1.2 expected, p 0.63");
  const pugi::xml_node failure = document.select_node("//testcase/failure").node();
  EXPECT_STREQ(
      failure.attribute("message").value(),
      "forced, step 5: predicted \" other\", recorded \" w6\", gap 1.5 = 12 ulp = 17 noise "
      "(a hard flip: over 1 ulp and over 4 noise), margin 1.5");
}

TEST(JunitReporter, ASelftestSaysThatItIsJudgedByUlp) {
  run::SelftestResult result = selftest_result();
  const auto judged = [&] {
    return count(parsed(junit([&](Reporter& reporter) {
                   reporter.selftest(result);
                   reporter.selftest(result);
                   reporter.finish({});
                 })),
                 "//property[@name='judged']");
  };
  EXPECT_EQ(judged(), 0U);
  result.measures_noise = false;
  EXPECT_EQ(judged(), 1U) << "once for a suite";
}

TEST(JunitReporter, ASelftestSaysHowItWasReplayed) {
  run::SelftestResult result = selftest_result();
  const auto properties = [&](run::ReplayShape shape) {
    result.shape = shape;
    const pugi::xml_document document = parsed(junit([&](Reporter& reporter) {
      reporter.selftest(result);
      reporter.selftest(result);
      reporter.finish({});
    }));
    std::vector<std::string> names;
    for (const auto& found : document.select_nodes("//property")) {
      names.emplace_back(found.node().attribute("name").value());
    }
    return names;
  };
  EXPECT_EQ(properties(run::ReplayShape::kRecorded), std::vector<std::string>());
  EXPECT_EQ(properties(run::ReplayShape::kSingle), std::vector<std::string>{"batch"});
  EXPECT_EQ(properties(run::ReplayShape::kParallel), std::vector<std::string>{"parallel"});
}

TEST(JunitReporter, CountsAgreeWithTheCases) {
  const pugi::xml_document document = parsed(three_modes());
  const pugi::xml_node root = document.child("testsuites");
  EXPECT_EQ(root.attribute("tests").as_uint(), count(document, "//testcase"));
  EXPECT_EQ(root.attribute("failures").as_uint(), count(document, "//failure"));
  EXPECT_EQ(count(document, "/testsuites/testsuite"), 2U);
  for (const pugi::xml_node suite : root.children("testsuite")) {
    EXPECT_EQ(suite.attribute("tests").as_uint(), suite.select_nodes("testcase").size());
    EXPECT_EQ(suite.attribute("failures").as_uint(), suite.select_nodes("testcase/failure").size());
    EXPECT_EQ(suite.attribute("errors").as_uint(), 0U);
    EXPECT_TRUE(suite.attribute("time"));
  }
}

TEST(JunitReporter, ATieIsNoFailureOfItsInput) {
  const pugi::xml_document document =
      parsed(junit([](Reporter& reporter) { report_all(reporter, replayed_input()); }));
  EXPECT_EQ(count(document, "//testcase[@name='batch4_input5']"), 1U);
  EXPECT_EQ(count(document, "//failure"), 0U);
}

TEST(JunitReporter, NonFiniteValuesFailTheirInput) {
  run::InputResult input = replayed_input();
  input.replay->modes[0].comparison.tokens[1].nonfinite = true;
  const pugi::xml_document document =
      parsed(junit([&](Reporter& reporter) { report_all(reporter, input); }));
  const pugi::xml_node failure =
      document.select_node("//testcase[@name='batch4_input5']/failure").node();
  EXPECT_STREQ(failure.attribute("message").value(), "inject: NaN or Inf");
}

TEST(JunitReporter, ListsTheFirstHardFlipsOnly) {
  run::InputResult input = replayed_input();
  run::ModeReplay& mode = input.replay->modes[0];
  mode.comparison.tokens.resize(40, mode.comparison.tokens[2]);
  mode.texts.resize(40);
  for (auto& token : mode.comparison.tokens) token.verdict = analysis::TokenVerdict::kHardFlip;
  const pugi::xml_document document =
      parsed(junit([&](Reporter& reporter) { report_all(reporter, input); }));
  const std::string text = document.select_node("//testcase/failure").node().text().get();
  EXPECT_NE(text.find("inject: 35 hard flips more"), std::string::npos) << text;
}

TEST(JunitReporter, AMissingFigureFailsItsRule) {
  const pugi::xml_document document = parsed(junit([](Reporter& reporter) {
    run::Summary summary = summary_of({replayed_input()});
    summary.verdicts = {verdict_of({replayed_input()}, sample_gate(), true)};
    report_run(reporter, {replayed_input()}, summary);
  }));
  const pugi::xml_node failure =
      document.select_node("//testcase[@classname='tiny.gate'][@name='forced.kl.p99']/failure")
          .node();
  EXPECT_STREQ(failure.attribute("type").value(), "missing");
}

TEST(JunitReporter, HasOneCaseForEachFault) {
  const pugi::xml_document document = parsed(junit([](Reporter& reporter) {
    reporter.begin({"selftest", "0.1.0", "2026-01-02T03:04:05Z"});
    reporter.selftest(selftest_result());
    reporter.finish({});
  }));
  EXPECT_EQ(count(document, "//testcase"), 4U);  // with the control
  EXPECT_EQ(count(document, "//testcase[@name='scaled-values'][not(*)]"), 1U);
  EXPECT_EQ(count(document, "//testcase[@name='stale-row']/failure"), 1U);
  EXPECT_EQ(count(document, "//testcase[@name='swapped-heads']/skipped"), 1U);
  EXPECT_EQ(document.child("testsuites").attribute("skipped").as_uint(), 1U);
}

TEST(JunitReporter, AFailedControlFails) {
  run::SelftestResult result = selftest_result();
  result.control_passed = false;
  result.control_failures = result.faults[0].failed_rules;
  const pugi::xml_document document = parsed(junit([&](Reporter& reporter) {
    reporter.selftest(result);
    reporter.finish({});
  }));
  EXPECT_EQ(count(document, "//testcase[@name='control']/failure"), 1U);
}

TEST(JunitReporter, AnErrorIsAnErrorCase) {
  const pugi::xml_document document = parsed(junit([](Reporter& reporter) {
    reporter.begin({"replay", "0.1.0", "2026-01-02T03:04:05Z"});
    reporter.input(replayed_input());
    reporter.fail(5, "disk <full>\x1b[2J");
  }));
  const pugi::xml_node error = document.select_node("//testcase[@name='replay']/error").node();
  EXPECT_STREQ(error.attribute("message").value(), "disk <full>\\x1b[2J");
  EXPECT_STREQ(error.attribute("type").value(), "exit status 5");
  EXPECT_EQ(document.child("testsuites").attribute("errors").as_uint(), 1U);
  EXPECT_EQ(count(document, "//testcase[@name='batch4_input5']"), 1U);
}

TEST(JunitReporter, HostileTextIsTextOnly) {
  const std::string text = junit([](Reporter& reporter) { report_all(reporter, hostile_input()); });
  for (const char c : text) {
    EXPECT_TRUE(static_cast<unsigned char>(c) >= 0x20 || c == '\n') << static_cast<int>(c);
  }
  EXPECT_EQ(text.find("\xEF\xBF\xBF"), std::string::npos);
  EXPECT_EQ(text.find("\xE2\x80\xAE"), std::string::npos);
  EXPECT_EQ(text.find("<script"), std::string::npos);
  const pugi::xml_document document = parsed(text);
  const std::string message =
      document.select_node("//testcase/failure").node().attribute("message").value();
  EXPECT_NE(message.find("\\x1b[31m<script>alert(1)</script>]]>|a|"), std::string::npos) << message;
}

}  // namespace
}  // namespace kvtool::report
