#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>

#include "sample_results.h"

namespace kvtool::report {
namespace {

using nlohmann::json;

json document(const InputResult& input) {
  std::string written;
  const auto reporter = make_json_reporter([&](const std::string& text) { written = text; });
  report_all(*reporter, input);
  return json::parse(written);
}

TEST(JsonReporter, StartsWithTheSchemaVersion) {
  std::string written;
  const auto reporter = make_json_reporter([&](const std::string& text) { written = text; });
  report_all(*reporter, generated_input());
  EXPECT_TRUE(written.starts_with("{\n  \"schema_version\": 1,\n  \"command\": \"replay\","))
      << written;
}

TEST(JsonReporter, HoldsGeneratedTokens) {
  const json result = document(generated_input())["results"].at(0);
  EXPECT_EQ(result["generated"]["tokens"], json({7, 8, 9, 10}));
  EXPECT_EQ(result["generated"]["stop_reason"], "eos");
  EXPECT_EQ(result["saved"]["bytes"], 2500000);
  EXPECT_EQ(result["prompt"]["text"], "Hello\nworld");
}

TEST(JsonReporter, HoldsTheComparison) {
  const json whole = document(replayed_input());
  const json replay = whole["results"].at(0)["replay"];
  EXPECT_EQ(replay["steps"], 4);
  EXPECT_EQ(replay["matches"], 3);
  EXPECT_EQ(replay["first_divergence"], 2);
  EXPECT_EQ(replay["predicted_tokens"], json({10, 11, 40, 13, 14}));
  EXPECT_EQ(replay["mismatches"].at(0)["class"],
            analysis::verdict_name(analysis::TokenVerdict::kTie));
  EXPECT_TRUE(replay["prefill_kv"]["bitwise_equal"]);
  EXPECT_DOUBLE_EQ(replay["step_kv"]["relative_l2"], 0.01);
  EXPECT_EQ(whole["summary"]["replay"]["ties"], 1);
  EXPECT_EQ(whole["summary"]["replay"]["failed"], false);
  EXPECT_EQ(whole["device"]["provenance"]["threads"], 2);
}

TEST(JsonReporter, NonFiniteNumbersAreNull) {
  InputResult input = replayed_input();
  input.replay->comparison.tokens[2].margin = std::numeric_limits<double>::quiet_NaN();
  input.replay->comparison.step_kv.sum_squared_reference = 0.0;
  input.timing.decode_seconds = 0.0;
  const json whole = document(input);
  EXPECT_TRUE(whole["results"].at(0)["replay"]["mismatches"].at(0)["margin"].is_null());
  EXPECT_TRUE(whole["results"].at(0)["replay"]["step_kv"]["relative_l2"].is_null());
  EXPECT_TRUE(whole["results"].at(0)["tokens_per_second"].is_null());
}

TEST(JsonReporter, ReplacesInvalidUtf8) {
  InputResult input = generated_input();
  input.generation->text = "a\xFF";
  EXPECT_EQ(document(input)["results"].at(0)["generated"]["text"], "a\xEF\xBF\xBD");
}

TEST(JsonReporter, AFailureKeepsTheResultsSoFar) {
  std::string written;
  const auto reporter = make_json_reporter([&](const std::string& text) { written = text; });
  reporter->begin({"save", "0.1.0", "2026-01-02T03:04:05Z"});
  reporter->input(generated_input());
  reporter->fail(5, "disk full");
  const json whole = json::parse(written);
  EXPECT_EQ(whole["error"]["exit_status"], 5);
  EXPECT_EQ(whole["results"].size(), 1U);
}

TEST(JsonReporter, ListsRecordings) {
  RecordingInfo damaged;
  damaged.path = "c.kvc";
  damaged.error = "not a recording";
  std::string written;
  const auto reporter = make_json_reporter([&](const std::string& text) { written = text; });
  reporter->begin({"info", "0.1.0", "2026-01-02T03:04:05Z"});
  reporter->info({true, {recording_info(), damaged}});
  reporter->finish({});
  const json whole = json::parse(written);
  EXPECT_EQ(whole["totals"]["unreadable"], 1);
  EXPECT_EQ(whole["recordings"].at(0)["model"]["id"], "Org/Tiny");
  EXPECT_EQ(whole["recordings"].at(1)["error"], "not a recording");
}

}  // namespace
}  // namespace kvtool::report
