#include "kvtool/format/writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <functional>

#include "sample.h"
#include "support/error_of.h"

namespace kvtool::format {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

class KvcWriter : public testing::Test {
 protected:
  [[nodiscard]] std::unique_ptr<RecordingWriter> start(SaveMode mode) {
    header_ = sample_header(mode);
    return std::make_unique<RecordingWriter>("x.kvc", header_, sample_meta(),
                                             sample_prompt(header_),
                                             WriterOptions{.file_system = &files_});
  }

  void prefill_layer(RecordingWriter& writer, std::uint32_t layer) {
    writer.write_prefill_layer(layer, sample_key(header_.geometry, layer, 3),
                               sample_value(header_.geometry, layer, 3));
  }

  [[nodiscard]] std::unique_ptr<RecordingWriter> start_steps(SaveMode mode) {
    auto writer = start(mode);
    if (mode != SaveMode::kFinalOnly) {
      prefill_layer(*writer, 0);
      prefill_layer(*writer, 1);
    }
    writer->write_prefill_end(sample_prefill_stats(header_));
    return writer;
  }

  void final_layer(RecordingWriter& writer, std::uint32_t layer, std::uint64_t positions) {
    writer.write_final_layer(layer, sample_key(header_.geometry, layer, positions),
                             sample_value(header_.geometry, layer, positions));
  }

  void expect_refused(const std::function<void()>& call, const std::string& part,
                      ErrorCode code = ErrorCode::kMisuse) {
    const Error error = error_of(call);
    EXPECT_EQ(error.code(), code);
    EXPECT_THAT(error.what(), AllOf(StartsWith("x.kvc: "), HasSubstr(part)));
  }

  MemoryFileSystem files_;
  RecordingHeader header_;
};

TEST_F(KvcWriter, GetsItsFinalNameOnlyAtTheEnd) {
  auto writer = start_steps(SaveMode::kPrefillOnly);
  EXPECT_EQ(writer->path(), "x.kvc");
  EXPECT_EQ(writer->partial_path(), "x.kvc.partial");
  EXPECT_FALSE(files_.exists("x.kvc"));
  EXPECT_TRUE(files_.exists("x.kvc.partial"));
  writer->finish({{"done", true}});
  EXPECT_TRUE(files_.exists("x.kvc"));
  EXPECT_FALSE(files_.exists("x.kvc.partial"));
  EXPECT_EQ(writer->bytes_written(), files_.bytes("x.kvc").size());
}

TEST_F(KvcWriter, DestroyedEarlyLeavesAReadablePartialFile) {
  {
    auto writer = start_steps(SaveMode::kPrefillOnly);
    writer->write_step(sample_stats(header_, 0), {});
  }
  EXPECT_FALSE(files_.exists("x.kvc"));
  expect_sample(Recording::open("x.kvc.partial", {.file_system = &files_}), 1);
}

TEST_F(KvcWriter, ReplacesAnOlderPartialFile) {
  files_.put("x.kvc.partial", Bytes(100'000));
  start_steps(SaveMode::kPrefillOnly)->finish({{"steps", 0}});
  expect_sample(Recording::open("x.kvc", {.file_system = &files_}), 0);
}

TEST_F(KvcWriter, AppendsAStepInOneCall) {
  auto writer = start_steps(SaveMode::kDelta);
  files_.fail_call(-1);
  writer->write_step(sample_stats(header_, 0), sample_delta(header_.geometry, 3));
  EXPECT_EQ(files_.calls(), 1);
  EXPECT_EQ(files_.log().back(), "append");
}

TEST_F(KvcWriter, SyncsTheFileBeforeAndItsFolderAfterTheRename) {
  write_sample(files_, "out/x.kvc", sample_header(SaveMode::kDelta), 1, true);
  EXPECT_THAT(std::vector(files_.log().begin(), files_.log().begin() + 5),
              ElementsAre("create_directories out", "remove", "create", "sync_directory out",
                          "sync_parents out"));
  EXPECT_THAT(std::vector(files_.log().end() - 4, files_.log().end()),
              ElementsAre("sync", "close", "rename", "sync_directory out"));
}

TEST_F(KvcWriter, DoesNotSyncUnlessAsked) {
  write_sample(files_, "x.kvc", sample_header(SaveMode::kDelta), 1);
  EXPECT_THAT(files_.log(), testing::Not(testing::Contains(StartsWith("sync"))));
}

TEST_F(KvcWriter, SyncsAfterEverySoManySteps) {
  const RecordingHeader header = sample_header(SaveMode::kPrefillOnly);
  const auto synced_at = [&](WriterOptions options) {
    options.file_system = &files_;
    RecordingWriter writer("x.kvc", header, sample_meta(), sample_prompt(header), options);
    for (std::uint32_t layer = 0; layer < 2; ++layer) prefill_layer(writer, layer);
    writer.write_prefill_end(sample_prefill_stats(header));
    std::vector<std::uint64_t> steps;
    for (std::uint64_t step = 0; step < 7; ++step) {
      writer.write_step(sample_stats(header, step), {});
      if (files_.log().back() == "sync") steps.push_back(step);
    }
    return steps;
  };
  header_ = header;
  EXPECT_THAT(synced_at({.sync = true, .sync_every_steps = 3}), ElementsAre(2, 5));
  EXPECT_THAT(synced_at({.sync = true}), ElementsAre());
  EXPECT_THAT(synced_at({.sync_every_steps = 3}), ElementsAre());
}

TEST_F(KvcWriter, ClearsTheGapsOfADelta) {
  auto writer = start_steps(SaveMode::kDelta);
  Bytes delta = sample_delta(header_.geometry, 3);
  for (const std::size_t gap : {44u, 47u, 53u, 63u}) delta[gap] = std::byte{0xee};
  writer->write_step(sample_stats(header_, 0), delta);
  writer->finish({{"steps", 1}});
  expect_sample(Recording::open("x.kvc", {.file_system = &files_}), 1);
}

TEST_F(KvcWriter, RefusesAHeaderThatCannotBe) {
  const auto refuses = [&](auto change, const std::string& part,
                           ErrorCode code = ErrorCode::kUsage) {
    RecordingHeader header = sample_header(SaveMode::kDelta);
    change(header);
    expect_refused(
        [&] {
          RecordingWriter("x.kvc", header, sample_meta(),
                          sample_prompt(sample_header(SaveMode::kDelta)), {.file_system = &files_});
        },
        part, code);
  };
  refuses([](RecordingHeader& h) { h.vocab_size = 0; }, "impossible vocabulary size 0");
  refuses([](RecordingHeader& h) { h.top_k = 51; }, "top-k of 51");
  refuses([](RecordingHeader& h) { h.prompt_length = 0; }, "empty prompt");
  refuses([](RecordingHeader& h) { h.prompt_length = 4; }, "prompt of 3 tokens, the header says 4",
          ErrorCode::kMisuse);
  refuses([](RecordingHeader& h) { h.geometry = Geometry(); }, "no layers");
  refuses([](RecordingHeader& h) { h.vocab_size = 5; }, "prompt token 7 is outside",
          ErrorCode::kMisuse);
  EXPECT_TRUE(files_.log().empty());
}

TEST_F(KvcWriter, RefusesMetaThatAReaderWouldRefuse) {
  const RecordingHeader header = sample_header(SaveMode::kDelta);
  const auto refuses = [&](const nlohmann::json& meta, ErrorCode code, const std::string& part) {
    const Error error = error_of([&] {
      RecordingWriter("x.kvc", header, meta, sample_prompt(header), {.file_system = &files_});
    });
    EXPECT_EQ(error.code(), code);
    EXPECT_THAT(error.what(), HasSubstr(part));
  };
  refuses(nlohmann::json::array(), ErrorCode::kMisuse, "META is not a JSON object");
  nlohmann::json deep = 1;
  for (int i = 0; i < 17; ++i) deep = {{"a", deep}};
  refuses(deep, ErrorCode::kUsage, "nested deeper than 16");
  refuses({{"a", std::string(17 << 20, 'x')}}, ErrorCode::kUsage, "at most 16777216 fit");
}

TEST_F(KvcWriter, RefusesCallsOutOfOrder) {
  expect_refused([&] { prefill_layer(*start(SaveMode::kDelta), 1); }, "layer 1 out of order");
  expect_refused([&] { prefill_layer(*start_steps(SaveMode::kDelta), 0); }, "after the prefill");
  expect_refused([&] { prefill_layer(*start(SaveMode::kFinalOnly), 0); }, "final_only");
  expect_refused(
      [&] {
        const auto writer = start(SaveMode::kDelta);
        prefill_layer(*writer, 0);
        writer->write_prefill_end(sample_prefill_stats(header_));
      },
      "the prefill ends after 1 of 2 layers");
  expect_refused(
      [&] { start_steps(SaveMode::kDelta)->write_prefill_end(sample_prefill_stats(header_)); },
      "ended already");
  expect_refused([&] { start(SaveMode::kPrefillOnly)->write_step({}, {}); }, "before the end");
  expect_refused([&] { start(SaveMode::kDelta)->finish({{"a", 1}}); }, "finished before");
  expect_refused([&] { final_layer(*start_steps(SaveMode::kDelta), 0, 3); },
                 "outside a final_only");
  expect_refused([&] { final_layer(*start(SaveMode::kFinalOnly), 0, 3); }, "before the end");
  expect_refused(
      [&] {
        const auto writer = start_steps(SaveMode::kFinalOnly);
        final_layer(*writer, 0, 3);
        writer->write_step(sample_stats(header_, 0), {});
      },
      "after the last one");
  expect_refused(
      [&] {
        const auto writer = start_steps(SaveMode::kFinalOnly);
        final_layer(*writer, 0, 3);
        writer->finish({{"a", 1}});
      },
      "finished with 1 of 2 final layers");
  expect_refused(
      [&] {
        const auto writer = start_steps(SaveMode::kPrefillOnly);
        writer->finish({{"a", 1}});
        writer->finish({{"a", 1}});
      },
      "twice");
}

TEST_F(KvcWriter, RefusesWrongSizesAndTokens) {
  const Bytes wrong(7);
  expect_refused([&] { start(SaveMode::kDelta)->write_prefill_layer(0, wrong, wrong); },
                 "do not hold 3 positions");
  expect_refused(
      [&] { start_steps(SaveMode::kDelta)->write_step(sample_stats(header_, 0), wrong); },
      "K/V of 7 bytes, expected 64");
  expect_refused(
      [&] { start_steps(SaveMode::kPrefillOnly)->write_step(sample_stats(header_, 0), wrong); },
      "K/V of 7 bytes, expected 0");
  const auto step_with = [&](auto change) {
    return [this, change] {
      const auto writer = start_steps(SaveMode::kPrefillOnly);
      StepStats stats = sample_stats(header_, 0);
      change(stats);
      writer->write_step(stats, {});
    };
  };
  expect_refused(step_with([](StepStats& s) { s.token = 50; }), "step 0: token 50 is outside");
  expect_refused(step_with([](StepStats& s) { s.input_token = -1; }), "input token -1 is outside");
  expect_refused(step_with([](StepStats& s) { s.top_ids[0] = 99; }), "top-k token 99 is outside");
  expect_refused(step_with([](StepStats& s) { s.top_ids.pop_back(); }), "top-k has 1 ids");
  expect_refused(step_with([](StepStats& s) { s.top_logits.push_back(1); }), "and 3 logits");
  expect_refused([&] { start_steps(SaveMode::kPrefillOnly)->finish(1); },
                 "SUMMARY is not a JSON object");
}

TEST_F(KvcWriter, FirstErrorStaysAndNothingIsAppendedAfterIt) {
  auto writer = start_steps(SaveMode::kPrefillOnly);
  files_.fail_call(0);
  const Error first = error_of([&] { writer->write_step(sample_stats(header_, 0), {}); });
  EXPECT_EQ(first.code(), ErrorCode::kEnvironment);
  files_.fail_call(-1);
  const std::size_t size = files_.bytes("x.kvc.partial").size();
  const Error second = error_of([&] { writer->write_step(sample_stats(header_, 0), {}); });
  EXPECT_EQ(second.code(), first.code());
  EXPECT_STREQ(second.what(), first.what());
  EXPECT_THROW(writer->finish({{"a", 1}}), Error);
  EXPECT_EQ(files_.bytes("x.kvc.partial").size(), size);
  EXPECT_FALSE(files_.exists("x.kvc"));
}

class FailingCall : public testing::TestWithParam<SaveMode> {};

INSTANTIATE_TEST_SUITE_P(KvcWriter, FailingCall,
                         testing::Values(SaveMode::kDelta, SaveMode::kPrefillOnly,
                                         SaveMode::kFinalOnly),
                         [](const auto& mode) { return std::string(save_mode_name(mode.param)); });

TEST_P(FailingCall, AnywhereLeavesTheOlderRecordingAndAReadablePartialFile) {
  const RecordingHeader header = sample_header(GetParam());
  const Bytes older = sample_bytes(GetParam(), 1);
  MemoryFileSystem counting;
  write_sample(counting, "out/x.kvc", header, 3, true);
  const int calls = counting.calls();
  ASSERT_GT(calls, 20);
  for (int call = 0; call < calls; ++call) {
    SCOPED_TRACE(counting.log()[static_cast<std::size_t>(call)]);
    MemoryFileSystem files;
    files.put("out/x.kvc", older);
    files.fail_call(call);
    const Error error = error_of([&] { write_sample(files, "out/x.kvc", header, 3, true); });
    EXPECT_EQ(error.code(), ErrorCode::kEnvironment);
    files.fail_call(-1);
    const bool renamed = call == calls - 1;  // only the folder's sync is left
    ASSERT_EQ(files.bytes("out/x.kvc") == older, !renamed);
    expect_sample(Recording::open("out/x.kvc", {.file_system = &files}), renamed ? 3 : 1);
    if (!files.exists("out/x.kvc.partial")) continue;
    try {
      const Recording partial = Recording::open("out/x.kvc.partial", {.file_system = &files});
      if (partial.has_prefill()) expect_sample(partial, partial.num_steps());
      partial.verify();
    } catch (const Error& early) {
      ASSERT_TRUE(std::string(early.what()).find("ends within") != std::string::npos ||
                  std::string(early.what()).find("empty file") != std::string::npos)
          << early.what();
    }
  }
}

class KvcWriterOnDisk : public testing::Test {
 protected:
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::filesystem::path folder_ =
      std::filesystem::temp_directory_path() / ("kvtool-" + to_string(random_uuid()));
};

TEST_F(KvcWriterOnDisk, ANameHasOneWriter) {
  const std::filesystem::path path = folder_ / "x.kvc";
  const RecordingHeader header = sample_header(SaveMode::kFinalOnly);
  const auto begin = [&] {
    return std::make_unique<RecordingWriter>(path, header, sample_meta(), sample_prompt(header));
  };
  auto first = begin();
  first->write_prefill_end(sample_prefill_stats(header));
  const Error error = error_of([&] { begin(); });
  EXPECT_EQ(error.code(), ErrorCode::kEnvironment);
  EXPECT_THAT(error.what(), HasSubstr("x.kvc.partial: another kvtool"));
  first->write_step(sample_stats(header, 0), {});
  for (std::uint32_t layer = 0; layer < 2; ++layer) {
    first->write_final_layer(layer, sample_key(header.geometry, layer, 4),
                             sample_value(header.geometry, layer, 4));
  }
  first->finish(sample_summary(1));
  expect_sample(Recording::open(path), 1);
  EXPECT_NO_THROW(begin()) << "finished, though the first writer still lives";
}

TEST_F(KvcWriterOnDisk, CreatesParentFoldersAndReadsBack) {
  const std::filesystem::path path = folder_ / "a" / "b" / "x.kvc";
  write_sample(posix_file_system(), path, sample_header(SaveMode::kDelta), 3, true);
  write_sample(posix_file_system(), path, sample_header(SaveMode::kFinalOnly), 2, true);
  expect_sample(Recording::open(path), 2);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(path.parent_path()), {}), 1);
}

}  // namespace
}  // namespace kvtool::format
