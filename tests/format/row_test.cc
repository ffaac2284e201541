#include "kvtool/format/row.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "kvtool/base/error.h"
#include "kvtool/format/replay_mode.h"

namespace kvtool::format {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr std::uint64_t kPromptLength = 2;
constexpr std::uint64_t kPositions = 4;  // prompt and two steps

class Row : public testing::Test {
 protected:
  Row() {
    static int counter = 0;
    directory_ = std::filesystem::temp_directory_path() /
                 ("kvtool_row_" + std::to_string(getpid()) + "_" + std::to_string(counter++));
    std::filesystem::create_directories(directory_);
  }
  ~Row() override { std::filesystem::remove_all(directory_); }

  [[nodiscard]] std::filesystem::path path() const { return directory_ / "batch1_input0.kvc"; }

  [[nodiscard]] static Geometry geometry() {
    return Geometry({LayerGeometry{DType::kBFloat16, DType::kBFloat16, 2, 3, 2},
                     LayerGeometry{DType::kBFloat16, DType::kFloat8E4M3, 1, 2, 4}});
  }

  [[nodiscard]] RecordingSinkOptions options(SaveMode mode) const {
    RecordingSinkOptions result;
    result.path = path();
    result.header.uuid = random_uuid();
    result.header.save_mode = mode;
    result.header.vocab_size = 100;
    result.header.top_k = 2;
    result.header.prompt_length = kPromptLength;
    result.header.geometry = geometry();
    result.meta_json = R"({"device": {"label": "CPU"}})";
    result.prompt = {11, 12};
    // Token 1 is the first byte of a two-byte character and token 2 the second.
    result.token_text = [](std::int32_t token) -> std::string_view {
      return token == 1 ? "\xc3" : token == 2 ? "\xa9" : "x";
    };
    return result;
  }

  std::filesystem::path directory_;
};

StepStats stats_for(std::int32_t input, std::int32_t token) {
  StepStats stats;
  stats.input_token = input;
  stats.token = token;
  stats.elapsed_ns = 1000 + token;
  stats.logsumexp = 0.25 * token;
  stats.logits_digest = 7U + static_cast<std::uint64_t>(token);
  stats.top_ids = {token, token + 1};
  stats.top_logits = {2.0F, 1.0F};
  return stats;
}

// The byte of one element of the cache; every place has a value of its own.
std::byte cache_byte(std::uint32_t layer, bool is_value, std::uint64_t head, std::uint64_t position,
                     std::uint64_t index) {
  return static_cast<std::byte>(layer * 128 + (is_value ? 64 : 0) + head * 32 + position * 8 +
                                index);
}

// [heads, positions, dim] of one layer's K or V for positions [begin, end).
std::vector<std::byte> block(std::uint32_t layer, bool is_value, std::uint64_t begin,
                             std::uint64_t end, const LayerGeometry& geometry) {
  const std::uint64_t row_bytes =
      (is_value ? geometry.value_bytes() : geometry.key_bytes()) / geometry.num_kv_heads;
  std::vector<std::byte> bytes;
  for (std::uint64_t head = 0; head < geometry.num_kv_heads; ++head) {
    for (std::uint64_t position = begin; position < end; ++position) {
      for (std::uint64_t i = 0; i < row_bytes; ++i) {
        bytes.push_back(cache_byte(layer, is_value, head, position, i));
      }
    }
  }
  return bytes;
}

std::vector<std::byte> delta_at(const Geometry& geometry, std::uint64_t position) {
  std::vector<std::byte> delta(geometry.delta_bytes());
  for (std::uint32_t layer = 0; layer < geometry.num_layers(); ++layer) {
    const auto put = [&](bool is_value, std::uint64_t offset) {
      const auto bytes = block(layer, is_value, position, position + 1, geometry.layer(layer));
      std::copy(bytes.begin(), bytes.end(), delta.begin() + static_cast<std::ptrdiff_t>(offset));
    };
    put(false, geometry.row_offset(layer).key);
    put(true, geometry.row_offset(layer).value);
  }
  return delta;
}

// Feeds a row of two steps as an engine does: only what the sink needs.
void feed(RowSink& sink, const Geometry& geometry, bool end = true) {
  const RowSink::Needs needs = sink.needs();
  if (needs.prefill_kv) {
    for (std::uint32_t layer = 0; layer < geometry.num_layers(); ++layer) {
      sink.on_prefill_layer(layer, block(layer, false, 0, kPromptLength, geometry.layer(layer)),
                            block(layer, true, 0, kPromptLength, geometry.layer(layer)));
    }
  }
  sink.on_prefill_end(stats_for(-1, 1));
  for (std::uint64_t step = 0; step < 2; ++step) {
    const auto delta = delta_at(geometry, kPromptLength + step);
    sink.on_step(
        step, stats_for(static_cast<std::int32_t>(step) + 1, static_cast<std::int32_t>(step) + 2),
        needs.step_kv ? std::span<const std::byte>(delta) : std::span<const std::byte>());
  }
  if (!end) return;
  if (needs.final_kv) {
    for (std::uint32_t layer = 0; layer < geometry.num_layers(); ++layer) {
      sink.on_final_layer(layer, block(layer, false, 0, kPositions, geometry.layer(layer)),
                          block(layer, true, 0, kPositions, geometry.layer(layer)));
    }
  }
  sink.on_end(
      {.stop_reason = StopReason::kEndOfSequence, .prefill_seconds = 0.5, .decode_seconds = 1.5});
}

void expect_prompt_kv(const RowSource& source) {
  const Geometry& geometry = source.header().geometry;
  for (std::uint32_t layer = 0; layer < geometry.num_layers(); ++layer) {
    const auto key = block(layer, false, 0, kPromptLength, geometry.layer(layer));
    const auto value = block(layer, true, 0, kPromptLength, geometry.layer(layer));
    std::vector<std::byte> read_key(key.size());
    std::vector<std::byte> read_value(value.size());
    source.read_prefill_layer(layer, read_key, read_value);
    EXPECT_EQ(read_key, key) << "layer " << layer;
    EXPECT_EQ(read_value, value) << "layer " << layer;
  }
}

void expect_step_kv(const RowSource& source) {
  const Geometry& geometry = source.header().geometry;
  std::vector<std::byte> delta(geometry.delta_bytes());
  for (std::uint64_t step = 0; step < source.num_steps(); ++step) {
    EXPECT_EQ(source.read_step(step, delta), source.read_step(step, {}));
    EXPECT_EQ(delta, delta_at(geometry, kPromptLength + step)) << "step " << step;
  }
}

void expect_statistics(const RowSource& source) {
  EXPECT_THAT(source.prompt(), ElementsAre(11, 12));
  EXPECT_EQ(source.prefill_stats(), stats_for(-1, 1));
  ASSERT_EQ(source.num_steps(), 2U);
  EXPECT_EQ(source.read_step(0, {}), stats_for(1, 2));
  EXPECT_EQ(source.read_step(1, {}), stats_for(2, 3));
}

void expect_needs(const RowSink& sink, bool prefill_kv, bool step_kv, bool final_kv) {
  EXPECT_EQ(sink.needs().prefill_kv, prefill_kv);
  EXPECT_EQ(sink.needs().step_kv, step_kv);
  EXPECT_EQ(sink.needs().final_kv, final_kv);
}

void expect_read_back(const std::filesystem::path& path, bool with_step_kv) {
  const Recording recording = Recording::open(path);
  const auto source = make_row_source(recording);
  expect_statistics(*source);
  ASSERT_TRUE(source->has_prefill_kv());
  ASSERT_EQ(source->has_step_kv(), with_step_kv);
  expect_prompt_kv(*source);
  if (with_step_kv) expect_step_kv(*source);
}

TEST_F(Row, DeltaRecordingReturnsEverything) {
  const auto sink = make_recording_sink(options(SaveMode::kDelta));
  expect_needs(*sink, true, true, false);
  feed(*sink, geometry());
  expect_read_back(path(), true);
}

TEST_F(Row, PrefillOnlyRecordingHasNoStepKv) {
  const auto sink = make_recording_sink(options(SaveMode::kPrefillOnly));
  expect_needs(*sink, true, false, false);
  feed(*sink, geometry());
  expect_read_back(path(), false);
}

TEST_F(Row, FinalOnlyRecordingIsWalkedStepByStep) {
  const auto sink = make_recording_sink(options(SaveMode::kFinalOnly));
  expect_needs(*sink, false, false, true);
  feed(*sink, geometry());
  expect_read_back(path(), true);
}

TEST_F(Row, InterruptedFinalOnlyRecordingHasStatisticsButNoKv) {
  feed(*make_recording_sink(options(SaveMode::kFinalOnly)), geometry(), /*end=*/false);
  const Recording recording = Recording::open(path().string() + std::string(kPartialSuffix));
  const auto source = make_row_source(recording);
  expect_statistics(*source);
  EXPECT_FALSE(source->has_prefill_kv());
  EXPECT_FALSE(source->has_step_kv());
}

TEST_F(Row, InterruptedDeltaRecordingKeepsItsSteps) {
  feed(*make_recording_sink(options(SaveMode::kDelta)), geometry(), /*end=*/false);
  EXPECT_FALSE(std::filesystem::exists(path()));
  const Recording recording = Recording::open(path().string() + std::string(kPartialSuffix));
  EXPECT_FALSE(recording.complete());
  const auto source = make_row_source(recording);
  expect_statistics(*source);
  expect_step_kv(*source);
}

TEST_F(Row, SummaryTellsHowTheRowEnded) {
  feed(*make_recording_sink(options(SaveMode::kDelta)), geometry());
  const Recording recording = Recording::open(path());
  // Tokens 1 and 2 are the halves of "é", token 3 is "x".
  const nlohmann::json expected = {
      {"stop_reason", "eos"},   {"tokens", 3},          {"steps", 2}, {"text", "\xc3\xa9x"},
      {"prefill_seconds", 0.5}, {"decode_seconds", 1.5}};
  EXPECT_EQ(recording.summary(), expected);
  EXPECT_EQ(recording.meta().at("device").at("label"), "CPU");
}

TEST_F(Row, SummaryReplacesInvalidUtf8) {
  RecordingSinkOptions given = options(SaveMode::kDelta);
  given.token_text = [](std::int32_t token) -> std::string_view {
    return token == 1 ? "a\xff" : token == 2 ? "b" : "\xc3";
  };
  feed(*make_recording_sink(std::move(given)), geometry());
  EXPECT_EQ(Recording::open(path()).summary().at("text"),
            "a\xef\xbf\xbd"
            "b\xef\xbf\xbd");
}

TEST_F(Row, SummaryTextIsEmptyWithoutTokenText) {
  RecordingSinkOptions given = options(SaveMode::kDelta);
  given.token_text = nullptr;
  feed(*make_recording_sink(std::move(given)), geometry());
  EXPECT_EQ(Recording::open(path()).summary().at("text"), "");
}

TEST_F(Row, RecordingSinkRejectsMetadataThatIsNoObject) {
  for (const char* meta : {"", "[]", "{"}) {
    RecordingSinkOptions given = options(SaveMode::kDelta);
    given.meta_json = meta;
    EXPECT_THROW((void)make_recording_sink(std::move(given)), Error) << meta;
  }
}

TEST_F(Row, RecordingSinkRejectsAStepOutOfOrder) {
  const auto sink = make_recording_sink(options(SaveMode::kPrefillOnly));
  for (std::uint32_t layer = 0; layer < 2; ++layer) {
    sink->on_prefill_layer(layer, block(layer, false, 0, kPromptLength, geometry().layer(layer)),
                           block(layer, true, 0, kPromptLength, geometry().layer(layer)));
  }
  sink->on_prefill_end(stats_for(-1, 1));
  try {
    sink->on_step(1, stats_for(1, 2), {});
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kMisuse);
    EXPECT_THAT(error.what(), HasSubstr("step 1 was handed over where step 0 was due"));
  }
}

// Notes what it was handed.
class NotingSink final : public RowSink {
 public:
  explicit NotingSink(Needs needs) : needs_(needs) {}
  [[nodiscard]] Needs needs() const override { return needs_; }
  void on_prefill_layer(std::uint32_t layer, std::span<const std::byte>,
                        std::span<const std::byte>) override {
    notes.push_back("prefill " + std::to_string(layer));
  }
  void on_prefill_end(const StepStats& stats) override {
    notes.push_back("token " + std::to_string(stats.token));
  }
  void on_step(std::uint64_t step, const StepStats&, std::span<const std::byte> delta) override {
    notes.push_back("step " + std::to_string(step) + (delta.empty() ? "" : " kv"));
  }
  void on_reference_layer(std::uint32_t layer, std::span<const std::byte>,
                          std::span<const std::byte>) override {
    notes.push_back("reference " + std::to_string(layer));
  }
  void on_reference_step(std::uint64_t step, const StepStats&,
                         std::span<const std::byte>) override {
    notes.push_back("reference step " + std::to_string(step));
  }
  void on_final_layer(std::uint32_t layer, std::span<const std::byte>,
                      std::span<const std::byte>) override {
    notes.push_back("final " + std::to_string(layer));
  }
  void on_end(const RowEnd&) override { notes.emplace_back("end"); }

  std::vector<std::string> notes;

 private:
  Needs needs_;
};

TEST_F(Row, FeedingASourceToARecorderReproducesTheRow) {
  feed(*make_recording_sink(options(SaveMode::kDelta)), geometry());
  const Recording recording = Recording::open(path());
  RecordingSinkOptions copy = options(SaveMode::kDelta);
  copy.path = directory_ / "copy.kvc";
  feed_row(*make_row_source(recording), *make_recording_sink(copy), {});
  const Recording copied = Recording::open(copy.path);
  const auto source = make_row_source(copied);
  expect_statistics(*source);
  expect_prompt_kv(*source);
  expect_step_kv(*source);
}

TEST_F(Row, FeedingASourceWithoutStepKvHandsOverEmptyDeltas) {
  feed(*make_recording_sink(options(SaveMode::kPrefillOnly)), geometry());
  const Recording recording = Recording::open(path());
  RecordingSinkOptions copy = options(SaveMode::kPrefillOnly);
  copy.path = directory_ / "copy.kvc";
  feed_row(*make_row_source(recording), *make_recording_sink(copy), {});
  const Recording copied = Recording::open(copy.path);
  expect_statistics(*make_row_source(copied));
  expect_prompt_kv(*make_row_source(copied));
}

TEST_F(Row, FeedingRefusesASinkThatNeedsTheFinalState) {
  feed(*make_recording_sink(options(SaveMode::kDelta)), geometry());
  const Recording recording = Recording::open(path());
  RecordingSinkOptions copy = options(SaveMode::kFinalOnly);
  copy.path = directory_ / "copy.kvc";
  const auto sink = make_recording_sink(copy);
  EXPECT_THROW(feed_row(*make_row_source(recording), *sink, {}), Error);
}

TEST_F(Row, TeeHandsEachSinkWhatItNeeds) {
  NotingSink kv({.prefill_kv = true, .step_kv = true, .final_kv = false});
  NotingSink final_state({.prefill_kv = false, .step_kv = false, .final_kv = true});
  const auto tee = make_tee_sink({&kv, &final_state});
  EXPECT_TRUE(tee->needs().prefill_kv);
  EXPECT_TRUE(tee->needs().step_kv);
  EXPECT_TRUE(tee->needs().final_kv);
  feed(*tee, geometry());
  EXPECT_THAT(kv.notes,
              ElementsAre("prefill 0", "prefill 1", "token 1", "step 0 kv", "step 1 kv", "end"));
  EXPECT_THAT(final_state.notes,
              ElementsAre("token 1", "step 0", "step 1", "final 0", "final 1", "end"));
}

TEST_F(Row, TeeHandsTheReferenceToThoseThatNeedTheRowItBelongsTo) {
  NotingSink kv({.prefill_kv = true, .step_kv = true, .final_kv = false});
  NotingSink final_state({.prefill_kv = false, .step_kv = false, .final_kv = true});
  const auto tee = make_tee_sink({&kv, &final_state});
  tee->on_reference_layer(1, {}, {});
  tee->on_reference_step(4, {}, {});
  EXPECT_THAT(kv.notes, ElementsAre("reference 1", "reference step 4"));
  EXPECT_THAT(final_state.notes, ElementsAre());
}

TEST_F(Row, TeeOfNothingNeedsNothing) {
  const auto tee = make_tee_sink({nullptr});
  EXPECT_FALSE(tee->needs().prefill_kv);
  EXPECT_FALSE(tee->needs().step_kv);
  EXPECT_FALSE(tee->needs().final_kv);
  feed(*tee, geometry());
}

TEST(StopReason, HasNames) {
  EXPECT_EQ(stop_reason_name(StopReason::kEndOfSequence), "eos");
  EXPECT_EQ(stop_reason_name(StopReason::kMaxNewTokens), "max_new_tokens");
  EXPECT_EQ(stop_reason_name(StopReason::kRecordingEnd), "recording_end");
}

}  // namespace
}  // namespace kvtool::format
