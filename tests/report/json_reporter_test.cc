#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "sample_results.h"

namespace kvtool::report {
namespace {

using nlohmann::json;

std::string written_by(const std::function<void(Reporter&)>& calls) {
  std::string written;
  const auto reporter = make_json_reporter([&](const std::string& text) { written = text; });
  calls(*reporter);
  return written;
}

json document(const run::InputResult& input) {
  return json::parse(written_by([&](Reporter& reporter) { report_all(reporter, input); }));
}

// A run of three modes with a chosen gate.
json whole_document() {
  const std::vector<run::InputResult> inputs = {replayed_input(), three_mode_input()};
  run::Summary summary = summary_of(inputs);
  summary.verdicts = {verdict_of(inputs, sample_gate(), true)};
  summary.verdicts[0].provenance = {sample_difference()};
  summary.verdicts[0].numerics = sample_agreement();
  return json::parse(
      written_by([&](Reporter& reporter) { report_run(reporter, inputs, summary); }));
}

std::vector<std::string> keys(const json& object) {
  std::vector<std::string> result;
  for (const auto& [key, value] : object.items()) result.push_back(key);
  return result;
}

TEST(JsonReporter, StartsWithTheSchemaVersion) {
  const std::string written =
      written_by([](Reporter& reporter) { report_all(reporter, generated_input()); });
  EXPECT_TRUE(written.starts_with("{\n  \"schema_version\": 3,\n  \"command\": \"replay\","))
      << written;
}

TEST(JsonReporter, HoldsGeneratedTokens) {
  const json result = document(generated_input())["results"].at(0);
  EXPECT_EQ(result["generated"]["tokens"], json({7, 8, 9, 10}));
  EXPECT_EQ(result["generated"]["stop_reason"], "eos");
  EXPECT_EQ(result["saved"]["bytes"], 2500000);
  EXPECT_EQ(result["prompt"]["text"], "Hello\nworld");
}

// The schema of docs/reports.md: a member that is renamed or dropped needs a new
// schema version.
TEST(JsonReporter, HasTheMembersOfTheSchema) {
  using ::testing::UnorderedElementsAre;
  const json whole = whole_document();
  EXPECT_THAT(keys(whole),
              UnorderedElementsAre("schema_version", "command", "kvtool_version", "created_utc",
                                   "device", "models", "results", "verdicts", "summary"));
  const json replay = whole["results"].at(1)["replay"];
  EXPECT_THAT(keys(replay),
              UnorderedElementsAre("recording", "live", "recorded_device", "reference_cache",
                                   "cache", "save_mode", "truncation", "reference_has_prefill_kv",
                                   "different_weights", "different_config", "parallel", "failed",
                                   "provenance", "numerics", "modes"));
  const json mode = replay["modes"].at(1);
  EXPECT_THAT(keys(mode),
              UnorderedElementsAre("mode", "own_step_kv", "prefill_seconds", "decode_seconds",
                                   "tokens_per_second", "prefill_token_matches", "steps",
                                   "uncompared_steps", "matches", "ties", "noise_flips",
                                   "near_ties", "hard_flips", "measures_noise", "kl_p99",
                                   "kl_estimate_p99", "first_divergence", "first_bit_difference",
                                   "logits_equal", "bitwise_equal", "nonfinite", "recorded_text",
                                   "own_text", "tokens", "mismatches", "prefill_kv", "step_kv"));
  EXPECT_THAT(keys(mode["mismatches"].at(0)),
              UnorderedElementsAre("index", "recorded", "predicted", "class", "margin", "gap",
                                   "gap_is_bound", "live_gap", "ulp", "noise", "noise_bound",
                                   "gap_in_noise", "rule", "kl", "kl_estimate", "nonfinite",
                                   "recorded_text", "predicted_text"));
  const json verdict = whole["verdicts"].at(0);
  EXPECT_THAT(keys(verdict),
              UnorderedElementsAre("model", "reference_device", "device", "reference_cache",
                                   "cache", "different_weights", "different_config", "parallel",
                                   "measures_noise", "passed", "finding", "gate", "figures",
                                   "amplification", "provenance", "numerics", "prefill", "modes"));
  EXPECT_THAT(keys(verdict["modes"].at(0)),
              UnorderedElementsAre("mode", "tokens", "flips", "logits", "kv", "agreed_tokens",
                                   "first_divergences", "hard_flip_count", "hard_flips"));
  EXPECT_THAT(keys(verdict["modes"].at(0)["logits"]),
              UnorderedElementsAre("compared", "bitwise_equal", "top1_agreement", "top5_agreement",
                                   "top5_accuracy", "top100_measured", "top100_agreement",
                                   "delta_p_measured", "rms_delta_p", "noise_measured", "noise",
                                   "relative_noise", "kl", "kl_estimate"));
  EXPECT_THAT(keys(verdict["modes"].at(0)["logits"]["kl"]),
              UnorderedElementsAre("measured", "mean", "median", "p99", "max", "worst"));
  EXPECT_THAT(keys(verdict["modes"].at(0)["logits"]["kl_estimate"]),
              UnorderedElementsAre("measured", "mean", "median", "p99", "max", "worst",
                                   "standard_error", "unreliable"));
  EXPECT_THAT(keys(verdict["modes"].at(0)["flips"]), UnorderedElementsAre("any", "hard"));
  EXPECT_THAT(keys(verdict["modes"].at(0)["flips"]["hard"]),
              UnorderedElementsAre("measured", "observed", "expected", "deviation", "p"));
  EXPECT_THAT(keys(verdict["gate"]),
              UnorderedElementsAre("name", "description", "chosen", "near_tie_ulps", "noise_z",
                                   "passed", "rules"));
  EXPECT_THAT(keys(verdict["gate"]["rules"].at(0)),
              UnorderedElementsAre("rule", "min", "max", "figure", "measured", "missing",
                                   "unjudged", "matched", "failed", "failures", "passed"));
  EXPECT_THAT(
      keys(verdict["modes"].at(0)["kv"]["key"]),
      UnorderedElementsAre("bitwise_equal", "elements", "differing", "nonfinite", "relative_l2",
                           "relative_max", "max_abs", "cosine", "pearson", "scale_error", "ulp_p99",
                           "floor_ratio", "worst_row", "layers", "layer_blocks", "heads", "cells"));
  EXPECT_THAT(
      keys(verdict["modes"].at(0)["kv"]["key"]["cells"]),
      UnorderedElementsAre("relative_l2", "relative_max", "cosine", "ulp_p99", "floor_ratio"));
}

TEST(JsonReporter, HoldsEveryTokenOfAMode) {
  const json mode = document(replayed_input())["results"].at(0)["replay"]["modes"].at(0);
  EXPECT_EQ(mode["steps"], 4);
  EXPECT_EQ(mode["matches"], 3);
  EXPECT_EQ(mode["first_divergence"], 2);
  EXPECT_EQ(mode["tokens"]["predicted"], json({10, 11, 40, 13, 14}));
  EXPECT_EQ(mode["tokens"]["class"], json({"match", "match", "tie", "match", "match"}));
  EXPECT_EQ(mode["tokens"]["kl"], json({0.0, 0.001, 0.25, 0.003, 0.004}));
  EXPECT_EQ(mode["tokens"]["margin"], json({2.0, 2.0, 0.0625, 2.0, 2.0}));
  EXPECT_EQ(mode["mismatches"].at(0)["class"], "tie");
  EXPECT_EQ(mode["mismatches"].at(0)["predicted_text"], "\n");
  EXPECT_EQ(mode["recorded_text"], "A€ Paris is.");
}

TEST(JsonReporter, HoldsTheNoiseOfEveryToken) {
  const json mode = document(noise_input())["results"].at(0)["replay"]["modes"].at(0);
  EXPECT_EQ(mode["measures_noise"], true);
  EXPECT_EQ(mode["ties"], 1);
  EXPECT_EQ(mode["noise_flips"], 1);
  EXPECT_EQ(mode["kl_p99"], 0.25);
  EXPECT_EQ(mode["kl_estimate_p99"], 0.5);
  EXPECT_EQ(mode["tokens"]["class"].at(5), "noise");
  EXPECT_EQ(mode["tokens"]["noise"].at(8), 0.0625);
  EXPECT_EQ(mode["tokens"]["kl_estimate"].at(2), 0.004);
  const json tie = mode["mismatches"].at(0);
  EXPECT_EQ(tie["rule"], "ulp");
  EXPECT_NEAR(tie["gap_in_noise"], 1.0 / std::sqrt(2.0), 1e-12) << "the gap is the noise";
  const json noise = mode["mismatches"].at(1);
  EXPECT_EQ(noise["rule"], "noise");
  EXPECT_EQ(noise["noise"], 0.0625);
  EXPECT_NEAR(noise["noise_bound"], 4.0 * std::sqrt(2.0) * 0.0625, 1e-12);
  EXPECT_NEAR(noise["gap_in_noise"], 0.1875 / (std::sqrt(2.0) * 0.0625), 1e-12);
  EXPECT_EQ(noise["kl_estimate"],
            json({{"value", 0.5}, {"standard_error", 0.025}, {"reliable", true}}));
}

TEST(JsonReporter, HoldsTheVerdictByNoise) {
  const json verdict = document(noise_input())["verdicts"].at(0);
  EXPECT_EQ(verdict["measures_noise"], true);
  EXPECT_EQ(verdict["gate"]["noise_z"], 4.0);
  const json forced = verdict["modes"].at(1);
  EXPECT_EQ(forced["tokens"]["noise_flips"], 1);
  EXPECT_EQ(forced["flips"]["any"]["measured"], 8);
  EXPECT_EQ(forced["flips"]["any"]["observed"], 2);
  EXPECT_EQ(forced["flips"]["any"]["expected"], 2.0) << "8 tokens of probability 1/4";
  EXPECT_NEAR(forced["flips"]["any"]["deviation"], std::sqrt(8 * 3.0 / 16.0), 1e-12);
  // 1 - P(0) - P(1) of the binomial distribution.
  EXPECT_NEAR(forced["flips"]["any"]["p"], 1.0 - std::pow(0.75, 8) - 2.0 * std::pow(0.75, 7),
              1e-12);
  EXPECT_EQ(forced["flips"]["hard"]["observed"], 1);
  EXPECT_EQ(forced["flips"]["hard"]["p"], 0.0);
  EXPECT_EQ(forced["logits"]["noise"], 0.0625);
  EXPECT_EQ(forced["logits"]["relative_noise"], 0.025);
  EXPECT_EQ(forced["logits"]["noise_measured"], 8);
  EXPECT_EQ(forced["logits"]["kl"]["max"], 0.25);
  EXPECT_EQ(forced["logits"]["kl_estimate"]["max"], 0.5);
  EXPECT_EQ(forced["logits"]["kl_estimate"]["unreliable"], 1);
  EXPECT_EQ(forced["logits"]["kl_estimate"]["worst"]["index"], 4);
  const json flip = forced["hard_flips"].at(0);
  EXPECT_EQ(flip["rule"], "noise");
  EXPECT_NEAR(flip["gap_in_noise"], 1.5 / (std::sqrt(2.0) * 0.0625), 1e-12);
}

TEST(JsonReporter, WithoutASampleNoiseIsNull) {
  const json whole = document(replayed_input());
  const json mode = whole["results"].at(0)["replay"]["modes"].at(0);
  EXPECT_EQ(mode["measures_noise"], false);
  EXPECT_TRUE(mode["kl_estimate_p99"].is_null());
  EXPECT_TRUE(mode["tokens"]["noise"].at(2).is_null());
  const json tie = mode["mismatches"].at(0);
  EXPECT_EQ(tie["rule"], "ulp");
  for (const char* member : {"noise", "noise_bound", "gap_in_noise", "kl_estimate"}) {
    EXPECT_TRUE(tie[member].is_null()) << member;
  }
  const json verdict = whole["verdicts"].at(0);
  EXPECT_EQ(verdict["measures_noise"], false);
  EXPECT_TRUE(verdict["modes"].at(0)["flips"]["any"]["p"].is_null());
  EXPECT_EQ(verdict["modes"].at(0)["logits"]["kl_estimate"]["measured"], 0);
}

TEST(JsonReporter, HoldsKvErrorsByLayerAndBlock) {
  const json modes = whole_document()["results"].at(1)["replay"]["modes"];
  EXPECT_TRUE(modes.at(0)["prefill_kv"]["bitwise_equal"]);
  const json step_kv = modes.at(1)["step_kv"];
  EXPECT_EQ(step_kv["first_position"], 2);
  EXPECT_EQ(step_kv["positions"], 8);
  EXPECT_NEAR(step_kv["value"]["relative_l2"], 0.005, 1e-12);
  EXPECT_EQ(step_kv["key"]["layers"]["relative_l2"].size(), 6U);
  EXPECT_NEAR(step_kv["key"]["layers"]["pearson"].at(0), 1.0 - 0.005 * 0.005 / 3.0, 1e-12);
  EXPECT_EQ(step_kv["key"]["layer_blocks"]["relative_l2"].at(0), json({0.005, 0.005}));
  // One of four rows of layer 3's second block has error 0.9: sqrt(0.81 / 4 + …).
  EXPECT_NEAR(step_kv["key"]["layer_blocks"]["relative_l2"].at(3).at(1), 0.450021, 1e-9);
  EXPECT_EQ(step_kv["key"]["worst_row"]["layer"], 3);
  EXPECT_EQ(step_kv["key"]["worst_row"]["position"], 7);
  EXPECT_EQ(step_kv["departure"]["kind"], "key");
  EXPECT_EQ(step_kv["departure"]["layer"], 3);
  EXPECT_EQ(step_kv["departure"]["position"], 7);
}

TEST(JsonReporter, HoldsTheVerdict) {
  const json verdict = whole_document()["verdicts"].at(0);
  EXPECT_EQ(verdict["passed"], false);
  EXPECT_EQ(verdict["gate"]["name"], "sample");
  EXPECT_EQ(verdict["gate"]["rules"].at(2)["rule"], "*.tokens.hard_flips");
  EXPECT_EQ(verdict["gate"]["rules"].at(2)["measured"], 1.0);
  EXPECT_EQ(verdict["gate"]["rules"].at(2)["failed"], 2);
  EXPECT_EQ(verdict["finding"]["name"], "compute");
  EXPECT_EQ(verdict["figures"]["forced.tokens.hard_flips"], 1.0);
  EXPECT_EQ(verdict["provenance"].at(0)["live"], "2.14.1");
  EXPECT_EQ(verdict["provenance"].at(0)["part"], "platform");
  EXPECT_EQ(verdict["numerics"]["policy"]["same"], true);
  EXPECT_EQ(verdict["numerics"]["policy"]["live"], "abcd");
  EXPECT_EQ(verdict["numerics"]["platform"], json::parse(R"({
      "same": false, "recorded": null, "live": "ef", "differing": ["torch"], "missing": ["CPU"]})"));
  const json forced = verdict["modes"].at(1);
  // One of eight steps is a hard flip with a delta of -0.1.
  EXPECT_EQ(forced["logits"]["top5_accuracy"], 0.875);
  EXPECT_EQ(forced["logits"]["top100_measured"], 0);
  EXPECT_TRUE(forced["logits"]["top100_agreement"].is_null());
  EXPECT_EQ(forced["logits"]["delta_p_measured"], 8);
  EXPECT_NEAR(forced["logits"]["rms_delta_p"], 0.1 / std::sqrt(8.0), 1e-12);
  EXPECT_EQ(forced["hard_flips"].at(0)["name"], "batch4_input6");
  EXPECT_EQ(forced["hard_flips"].at(0)["predicted_text"], " wrong");
  EXPECT_EQ(forced["first_divergences"].at(0)["token"]["index"], 6);
  EXPECT_EQ(forced["kv"]["departure"]["input"], "batch4_input6");
  EXPECT_EQ(forced["kv"]["departure"]["position"], 7);
  EXPECT_TRUE(forced["kv"]["first_position"].is_null());
  EXPECT_EQ(forced["kv"]["key"]["worst_row"]["position"], 5);
  EXPECT_EQ(forced["kv"]["key"]["heads"]["cosine"].at(5).size(), 2U);
  EXPECT_NEAR(forced["kv"]["key"]["cells"]["relative_l2"].at(3).at(1).at(1), 0.450021, 1e-9);
}

TEST(JsonReporter, NonFiniteNumbersAreNull) {
  run::InputResult input = replayed_input();
  analysis::RowComparison& row = input.replay->modes[0].comparison;
  row.tokens[2].margin = std::numeric_limits<double>::quiet_NaN();
  row.tokens[2].kl = std::numeric_limits<double>::infinity();
  row.tokens[2].predicted = -1;
  analysis::KvError error;
  error.elements = 1;
  error.max_abs = std::numeric_limits<double>::infinity();
  error.sum_squared_error = 1.0;  // of a reference that is 0
  row.step_kv = analysis::KvProfile({1}, 16);
  row.step_kv.add(analysis::KvKind::kKey, 0, 0, 0, error);
  input.timing.decode_seconds = 0.0;
  const json whole = document(input);
  const json mode = whole["results"].at(0)["replay"]["modes"].at(0);
  EXPECT_TRUE(mode["mismatches"].at(0)["margin"].is_null());
  EXPECT_TRUE(mode["tokens"]["kl"].at(2).is_null());
  EXPECT_TRUE(mode["tokens"]["predicted"].at(2).is_null());
  EXPECT_TRUE(mode["step_kv"]["key"]["relative_l2"].is_null());
  EXPECT_TRUE(mode["step_kv"]["key"]["layer_blocks"]["relative_l2"].at(0).at(0).is_null());
  EXPECT_TRUE(whole["results"].at(0)["tokens_per_second"].is_null());
}

TEST(JsonReporter, WhatWasNotMeasuredIsNull) {
  run::InputResult input = replayed_input();
  input.replay->modes[0].comparison.step_kv = {};
  const json mode = document(input)["results"].at(0)["replay"]["modes"].at(0);
  EXPECT_TRUE(mode["step_kv"].is_null());
}

TEST(JsonReporter, HostileTextIsTextOnly) {
  const json whole = document(hostile_input());
  const std::string prompt = whole["results"].at(0)["prompt"]["text"];
  EXPECT_NE(prompt.find("<script>"), std::string::npos);
  EXPECT_NE(prompt.find('\0'), std::string::npos);
  // Bytes that are no UTF-8 are replaced, nothing else is.
  EXPECT_NE(prompt.find("\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"), std::string::npos);
}

TEST(JsonReporter, WritesControlCharactersEscaped) {
  const std::string written =
      written_by([](Reporter& reporter) { report_all(reporter, hostile_input()); });
  EXPECT_EQ(written.find('\x1b'), std::string::npos);
  EXPECT_EQ(written.find('\0'), std::string::npos);
  EXPECT_NE(written.find("\\u001b[31m"), std::string::npos);
}

TEST(JsonReporter, AFailureKeepsTheResultsSoFar) {
  const json whole = json::parse(written_by([](Reporter& reporter) {
    reporter.begin({"save", "0.1.0", "2026-01-02T03:04:05Z"});
    reporter.input(generated_input());
    reporter.fail(5, "disk full");
  }));
  EXPECT_EQ(whole["error"]["exit_status"], 5);
  EXPECT_EQ(whole["results"].size(), 1U);
}

TEST(JsonReporter, ListsRecordings) {
  run::RecordingInfo damaged;
  damaged.path = "c.kvc";
  damaged.error = "not a recording";
  const json whole = json::parse(written_by([&](Reporter& reporter) {
    reporter.begin({"info", "0.1.0", "2026-01-02T03:04:05Z"});
    reporter.info({true, {recording_info(), damaged}});
    reporter.finish({});
  }));
  EXPECT_EQ(whole["totals"]["unreadable"], 1);
  EXPECT_EQ(whole["recordings"].at(0)["model"]["id"], "Org/Tiny");
  EXPECT_EQ(whole["recordings"].at(0)["provenance"]["cpu isa"], "AVX512");
  const json numerics = whole["recordings"].at(0)["numerics"];
  EXPECT_EQ(numerics["policy"]["digest"], "0123456789abcdef0123456789abcdef");
  EXPECT_EQ(numerics["policy"]["entries"], json::parse(R"({"model.dtype": "bfloat16"})"));
  EXPECT_TRUE(numerics["platform"]["digest"].is_null());
  EXPECT_EQ(numerics["platform"]["missing"], json::parse(R"(["CPU", "torch"])"));
  EXPECT_EQ(whole["recordings"].at(1)["error"], "not a recording");
}

TEST(JsonReporter, HoldsSelftestAndCalibration) {
  const json whole = json::parse(written_by([](Reporter& reporter) {
    reporter.begin({"selftest", "0.1.0", "2026-01-02T03:04:05Z"});
    reporter.selftest(selftest_result());
    reporter.calibration(calibration_result());
    reporter.finish({});
  }));
  const json selftest = whole["selftests"].at(0);
  EXPECT_EQ(selftest["passed"], false);
  EXPECT_EQ(selftest["faults"].at(0)["failed_rules"].at(0)["figure"],
            "inject.kv.value.scale_error");
  EXPECT_EQ(selftest["faults"].at(0)["smallest_caught"], 0.002);
  EXPECT_TRUE(selftest["faults"].at(2)["caught"].is_null());
  const json calibration = whole["calibrations"].at(0);
  EXPECT_EQ(calibration["rules"].at(0)["max"], 0.008);
  EXPECT_EQ(calibration["measures_noise"], true);
  EXPECT_EQ(selftest["measures_noise"], true);
  EXPECT_EQ(calibration["runs"].at(0)["figures"]["inject.kl.p99"], 0.002);
}

TEST(JsonReporter, ASelftestSaysHowItWasReplayed) {
  run::SelftestResult result = selftest_result();
  const auto member = [&](run::ReplayShape shape, const char* name) {
    result.shape = shape;
    return json::parse(written_by([&](Reporter& reporter) {
             reporter.selftest(result);
             reporter.finish({});
           }))["selftests"]
        .at(0)[name];
  };
  EXPECT_EQ(member(run::ReplayShape::kRecorded, "parallel"), false);
  EXPECT_EQ(member(run::ReplayShape::kRecorded, "batch"), "recorded");
  EXPECT_EQ(member(run::ReplayShape::kSingle, "batch"), "1");
  EXPECT_EQ(member(run::ReplayShape::kParallel, "parallel"), true);
  EXPECT_TRUE(member(run::ReplayShape::kParallel, "batch").is_null());
}

TEST(JsonReporter, HoldsEveryValueOfMeasurements) {
  const json bench = json::parse(written_by([](Reporter& reporter) {
    reporter.begin({"bench", "0.1.0", "2026-01-02T03:04:05Z"});
    reporter.bench(bench_result());
    reporter.finish({});
  }))["bench"];
  EXPECT_EQ(bench["repeats"], 3);
  const json recording = bench["recordings"].at(0);
  EXPECT_EQ(recording["kv_bytes"], 1'900'000);
  const json verify = recording["figures"].at(1);
  EXPECT_EQ(verify["measurement"], "verify");
  EXPECT_EQ(verify["unit"], "GB/s");
  EXPECT_EQ(verify["median"], 3.0);
  EXPECT_EQ(verify["values"], json({4.0, 2.0, 3.0}));
  EXPECT_EQ(recording["left_out"]["rebuild"],
            "a recording of mode prefill_only holds no K/V of steps");
}

}  // namespace
}  // namespace kvtool::report
