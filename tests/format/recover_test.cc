// Recovery keeps exactly what is intact, says what it lost, and never touches its input.
#include "kvtool/format/recover.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "format/bytes.h"
#include "format/layout.h"
#include "sample.h"
#include "support/error_of.h"
#include "support/stride.h"

namespace kvtool::format {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;

Uuid output_uuid() {
  Uuid uuid{};
  uuid.fill(0x5a);
  return uuid;
}

// What the writer makes of the sample's first steps, up to SUMMARY.
Bytes written_shorter(RecordingHeader header, std::uint64_t steps) {
  MemoryFileSystem files;
  header.uuid = output_uuid();
  write_sample(files, "x.kvc", header, steps);
  const Bytes& bytes = files.bytes("x.kvc");
  const std::uint64_t summary = load<std::uint64_t>(bytes, bytes.size() - 8);
  return first_bytes(bytes, summary);
}

struct SalvagedTensor {
  std::string dtype;
  std::vector<std::uint64_t> shape;
  Bytes data;
};

std::map<std::string, SalvagedTensor> parse_safetensors(const Bytes& bytes) {
  const auto length = load<std::uint64_t>(bytes, 0);
  const auto header =
      nlohmann::json::parse(std::string(reinterpret_cast<const char*>(bytes.data()) + 8, length));
  std::map<std::string, SalvagedTensor> tensors;
  std::uint64_t end = 0;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    const std::uint64_t first = entry.at("data_offsets").at(0);
    const std::uint64_t last = entry.at("data_offsets").at(1);
    end = std::max(end, last);
    const auto at = bytes.begin() + static_cast<std::ptrdiff_t>(8 + length);
    tensors[name] = {
        entry.at("dtype"), entry.at("shape"),
        Bytes(at + static_cast<std::ptrdiff_t>(first), at + static_cast<std::ptrdiff_t>(last))};
  }
  EXPECT_EQ(8 + length + end, bytes.size());
  return tensors;
}

std::vector<std::int64_t> numbers(const SalvagedTensor& tensor) {
  std::vector<std::int64_t> values(tensor.data.size() / 8);
  std::memcpy(values.data(), tensor.data.data(), tensor.data.size());
  return values;
}

class Recover : public testing::TestWithParam<SampleKind> {
 protected:
  Recover() : whole_(sample_bytes(GetParam().header(), kSteps, &offsets_)) {}

  RecoverResult recover(Bytes bytes, bool salvage = false) {
    files_.put("in.kvc.partial", bytes);
    files_.remove("out/x.kvc");
    RecoverResult result =
        recover_recording("in.kvc.partial", "out/x.kvc",
                          {.file_system = &files_, .salvage = salvage, .uuid = output_uuid()});
    EXPECT_EQ(files_.bytes("in.kvc.partial"), bytes);
    EXPECT_FALSE(files_.exists("out/x.kvc.recovering"));
    return result;
  }

  void expect_recovered(std::uint64_t steps) {
    const Recording recording = Recording::open("out/x.kvc", {.file_system = &files_});
    ASSERT_TRUE(recording.complete());
    ASSERT_NO_THROW(recording.verify());
    expect_sample(recording, steps);
    const Bytes& bytes = files_.bytes("out/x.kvc");
    const Bytes expected = written_shorter(GetParam().header(), steps);
    ASSERT_EQ(first_bytes(bytes, expected.size()), expected);
  }

  SampleOffsets offsets_;
  Bytes whole_;
  MemoryFileSystem files_;
};

class ExhaustiveRecover : public Recover {};
class ExhaustiveRecoverSteps : public Recover {};

INSTANTIATE_TEST_SUITE_P(KvcRecover, Recover, testing::ValuesIn(kSampleKinds),
                         [](const auto& kind) { return kind.param.name(); });
INSTANTIATE_TEST_SUITE_P(KvcRecover, ExhaustiveRecover, testing::ValuesIn(kSampleKinds),
                         [](const auto& kind) { return kind.param.name(); });
INSTANTIATE_TEST_SUITE_P(KvcRecover, ExhaustiveRecoverSteps,
                         testing::Values(SampleKind{SaveMode::kDelta},
                                         SampleKind{SaveMode::kPrefillOnly},
                                         SampleKind{SaveMode::kDelta, true},
                                         SampleKind{SaveMode::kPrefillOnly, true}),
                         [](const auto& kind) { return kind.param.name(); });

TEST_P(Recover, AnIntactRecordingIsCopiedAsItIs) {
  const RecoverResult result = recover(whole_);
  EXPECT_TRUE(result.written);
  EXPECT_THAT(result.lost, IsEmpty());
  EXPECT_EQ(result.uuid, result.source_uuid);
  EXPECT_EQ(files_.bytes("out/x.kvc"), whole_);
}

TEST_P(ExhaustiveRecoverSteps, EveryCutKeepsExactlyTheWholeSteps) {
  const std::uint64_t first = offsets_.prefill_end + first_of(GetParam().mode);
  for (std::uint64_t cut = first; cut < whole_.size(); cut += kStride) {
    SCOPED_TRACE(cut);
    const auto steps = static_cast<std::uint64_t>(
        std::count_if(offsets_.step_ends.begin(), offsets_.step_ends.end(),
                      [cut](std::uint64_t end) { return end <= cut; }));
    const RecoverResult result = recover(first_bytes(whole_, cut));
    ASSERT_EQ(result.steps, steps);
    ASSERT_EQ(result.bytes, files_.bytes("out/x.kvc").size());
    const bool summary = cut >= whole_.size() - 128;
    ASSERT_EQ(result.lost.empty(), summary);
    expect_recovered(steps);
    if (HasFatalFailure()) return;
  }
}

TEST_P(ExhaustiveRecover, CutsBeforeTheEndOfThePrefillOrTheStateLeaveNothing) {
  const bool final_only = GetParam().mode == SaveMode::kFinalOnly;
  const std::uint64_t end = final_only ? offsets_.data_end : offsets_.prefill_end;
  for (std::uint64_t cut = first_of(GetParam().mode); cut < end; cut += kStride) {
    const Error error = error_of([&] { recover(first_bytes(whole_, cut)); });
    ASSERT_EQ(error.code(), ErrorCode::kCorrupt) << cut;
    ASSERT_FALSE(files_.exists("out/x.kvc"));
  }
}

TEST_P(Recover, WhatIsRecoveredIsRecoveredWithoutLoss) {
  Bytes damaged = first_bytes(whole_, whole_.size() - 128 - 1);
  const RecoverResult first = recover(damaged);
  EXPECT_FALSE(first.lost.empty());
  const Bytes once = files_.bytes("out/x.kvc");
  const RecoverResult second = recover(once);
  EXPECT_THAT(second.lost, IsEmpty());
  EXPECT_EQ(files_.bytes("out/x.kvc"), once);
}

TEST_P(Recover, ADamagedStepEndsWhatIsKept) {
  Bytes damaged = whole_;
  damaged[offsets_.step_ends[0] + 64 + 9] ^= std::byte{1};
  const RecoverResult result = recover(damaged);
  EXPECT_THAT(result.lost, ElementsAre("steps 1 to 2 (2)"));
  EXPECT_EQ(result.input.state, FileState::kDamaged);
  // In a final_only recording the state is cut to the positions of that step.
  expect_recovered(1);
  const Recording recording = Recording::open("out/x.kvc", {.file_system = &files_});
  const nlohmann::json& from = recording.summary().at("recovered_from");
  EXPECT_EQ(from.at("uuid"), "10111213-1415-1617-1819-1a1b1c1d1e1f");
  EXPECT_EQ(from.at("file"), "in.kvc.partial");
  EXPECT_EQ(from.at("state"), "damaged");
  EXPECT_EQ(from.at("steps"), 3);
  EXPECT_EQ(from.at("lost"), nlohmann::json::array({"steps 1 to 2 (2)"}));
  EXPECT_EQ(recording.summary().at("steps"), 1);
  EXPECT_EQ(recording.header().uuid, output_uuid());
}

TEST_P(Recover, DamageOfWhatCanBeMadeAgainLosesNothing) {
  // TRAILER and CHECKSUMS.
  for (const std::uint64_t at : {whole_.size() - 1, offsets_.data_end + 64 + 20}) {
    Bytes damaged = whole_;
    damaged[at] ^= std::byte{1};
    const RecoverResult result = recover(damaged);
    EXPECT_EQ(result.input.state, FileState::kDamaged);
    EXPECT_THAT(result.lost, IsEmpty());
    expect_recovered(kSteps);
  }
}

TEST_P(Recover, LostMetaIsNamed) {
  Bytes damaged = whole_;
  damaged[load<std::uint32_t>(whole_, 12) + kRecordHeaderBytes + 5] ^= std::byte{1};
  EXPECT_THAT(recover(damaged).lost, ElementsAre("META (model, device and settings)"));
  const Recording recording = Recording::open("out/x.kvc", {.file_system = &files_});
  EXPECT_EQ(recording.num_steps(), kSteps);
  EXPECT_NO_THROW(recording.verify());
}

TEST_P(Recover, ADamagedHeaderLeavesNothingAndSaysSo) {
  Bytes damaged = whole_;
  damaged[100] ^= std::byte{1};
  const Error error = error_of([&] { recover(damaged); });
  EXPECT_EQ(error.code(), ErrorCode::kCorrupt);
  EXPECT_THAT(error.what(), AllOf(StartsWith("in.kvc.partial: header at byte 0: wrong checksum"),
                                  HasSubstr("without its header nothing can be recovered")));
}

TEST_P(Recover, FailureAtAnyCallKeepsTheOlderOutput) {
  const Bytes cut = first_bytes(whole_, whole_.size() - 1);
  const auto run = [&] {
    static_cast<void>(recover_recording("in.kvc", "x.kvc", {.file_system = &files_}));
  };
  files_.put("in.kvc", cut);
  files_.fail_call(-1);
  run();
  const int calls = files_.calls();
  ASSERT_GT(calls, 20);
  for (int call = 0; call < calls; ++call) {
    files_.put("x.kvc", {std::byte{1}});
    files_.fail_call(call);
    static_cast<void>(error_of(run));
    files_.fail_call(-1);
    // After the rename only the folder's sync is left.
    ASSERT_EQ(files_.bytes("x.kvc").size() == 1, call < calls - 1) << call;
    ASSERT_FALSE(files_.exists("x.kvc.recovering")) << call;
    ASSERT_EQ(files_.bytes("in.kvc"), cut);
  }
}

TEST(KvcRecoverNames, TheInputCannotBeTheOutput) {
  MemoryFileSystem files;
  files.put("x.kvc", sample_bytes(SaveMode::kDelta, 1));
  EXPECT_EQ(error_of([&] {
              static_cast<void>(recover_recording("x.kvc", "./x.kvc", {.file_system = &files}));
            }).code(),
            ErrorCode::kUsage);
}

TEST(KvcRecoverNames, EveryRecoveryHasItsOwnUuid) {
  MemoryFileSystem files;
  Bytes bytes = sample_bytes(SaveMode::kDelta, 1);
  bytes.pop_back();
  files.put("x.kvc", bytes);
  const RecoverResult first = recover_recording("x.kvc", "a.kvc", {.file_system = &files});
  const RecoverResult second = recover_recording("x.kvc", "b.kvc", {.file_system = &files});
  EXPECT_NE(first.uuid, second.uuid);
  EXPECT_NE(first.uuid, first.source_uuid);
}

class Salvage : public testing::Test {
 protected:
  RecoverResult recover(Bytes bytes) {
    files_.put("in.kvc", std::move(bytes));
    return recover_recording("in.kvc", "x.kvc", {.file_system = &files_, .salvage = true});
  }
  [[nodiscard]] std::map<std::string, SalvagedTensor> salvaged() {
    return parse_safetensors(files_.bytes("x.kvc.salvaged.safetensors"));
  }
  MemoryFileSystem files_;
};

// Rows [heads, steps, row] of some steps.
Bytes rows_of(const Bytes& tensor, std::uint64_t heads, std::uint64_t positions,
              const std::vector<std::uint64_t>& wanted) {
  const std::uint64_t row = tensor.size() / heads / positions;
  Bytes bytes;
  for (std::uint64_t head = 0; head < heads; ++head) {
    for (const std::uint64_t position : wanted) {
      const auto at =
          tensor.begin() + static_cast<std::ptrdiff_t>((head * positions + position) * row);
      bytes.insert(bytes.end(), at, at + static_cast<std::ptrdiff_t>(row));
    }
  }
  return bytes;
}

TEST_F(Salvage, KeepsTheRowsBehindAHole) {
  SampleOffsets offsets;
  Bytes damaged = sample_bytes(SaveMode::kDelta, 6, &offsets);
  damaged[offsets.step_ends[1] - 10] ^= std::byte{1};  // K/V of step 1
  damaged[offsets.step_ends[3] + 4] ^= std::byte{1};   // header of step 4
  const RecoverResult result = recover(damaged);
  EXPECT_EQ(result.steps, 1u);
  EXPECT_EQ(result.salvaged, "x.kvc.salvaged.safetensors");
  EXPECT_EQ(result.salvaged_steps, 3u);
  const auto tensors = salvaged();
  EXPECT_THAT(numbers(tensors.at("steps")), ElementsAre(1, 2, 3, 5));
  EXPECT_THAT(numbers(tensors.at("kv_steps")), ElementsAre(2, 3, 5));
  EXPECT_THAT(numbers(tensors.at("positions")), ElementsAre(5, 6, 8));
  const RecordingHeader header = sample_header(SaveMode::kDelta);
  EXPECT_EQ(numbers(tensors.at("tokens"))[3], sample_stats(header, 5).token);
  EXPECT_EQ(numbers(tensors.at("input_tokens"))[3], sample_stats(header, 5).input_token);
  for (std::uint32_t i = 0; i < 2; ++i) {
    const LayerGeometry& layer = header.geometry.layer(i);
    const SalvagedTensor& key = tensors.at("key." + std::to_string(i));
    const SalvagedTensor& value = tensors.at("value." + std::to_string(i));
    EXPECT_THAT(key.shape, ElementsAre(layer.num_kv_heads, 3, layer.key_dim));
    EXPECT_EQ(key.data,
              rows_of(sample_key(header.geometry, i, 9), layer.num_kv_heads, 9, {5, 6, 8}));
    EXPECT_EQ(value.data,
              rows_of(sample_value(header.geometry, i, 9), layer.num_kv_heads, 9, {5, 6, 8}));
    EXPECT_EQ(value.dtype, safetensors_name(layer.value_dtype));
  }
}

TEST_F(Salvage, KeepsWhatIsIntactOfADamagedPrefill) {
  SampleOffsets offsets;
  Bytes damaged = sample_bytes(SaveMode::kDelta, 2, &offsets);
  damaged[offsets.prompt_end + 64] ^= std::byte{1};  // K of layer 0
  const RecoverResult result = recover(damaged);
  EXPECT_FALSE(result.written);
  EXPECT_FALSE(files_.exists("x.kvc"));
  EXPECT_THAT(result.lost, ElementsAre("the recording: PREFILL of layer 0 is damaged"));
  const auto tensors = salvaged();
  EXPECT_FALSE(tensors.contains("prefill.key.0"));
  EXPECT_EQ(tensors.at("prefill.value.0").data, sample_value(sample_geometry(), 0, 3));
  EXPECT_EQ(tensors.at("prefill.key.1").data, sample_key(sample_geometry(), 1, 3));
  EXPECT_EQ(tensors.at("prefill.value.1").data, sample_value(sample_geometry(), 1, 3));
  EXPECT_THAT(numbers(tensors.at("kv_steps")), ElementsAre(0, 1));
}

TEST_F(Salvage, KeepsTokensAndLayersOfAFinalState) {
  SampleOffsets offsets;
  Bytes damaged = sample_bytes(SaveMode::kFinalOnly, 2, &offsets);
  damaged[offsets.step_ends[1] + 64] ^= std::byte{1};  // K of layer 0
  EXPECT_FALSE(recover(damaged).written);
  const auto tensors = salvaged();
  EXPECT_FALSE(tensors.contains("final.key.0"));
  EXPECT_EQ(tensors.at("final.value.0").data, sample_value(sample_geometry(), 0, 5));
  EXPECT_EQ(tensors.at("final.key.1").data, sample_key(sample_geometry(), 1, 5));
  EXPECT_THAT(numbers(tensors.at("steps")), ElementsAre(0, 1));
}

TEST_F(Salvage, WritesNothingWhereNothingIsLeft) {
  SampleOffsets offsets;
  Bytes cut = sample_bytes(SaveMode::kDelta, 2, &offsets);
  cut.resize(offsets.step_ends[1] - 1);
  EXPECT_EQ(recover(cut).salvaged, "");
  EXPECT_FALSE(files_.exists("x.kvc.salvaged.safetensors"));
}

TEST_F(Salvage, AndRecoveryReadInBlocks) {
  RecordingHeader header = sample_header(SaveMode::kDelta);
  header.prompt_length = 2000;
  header.geometry =
      Geometry(std::vector<LayerGeometry>(3, {DType::kBFloat16, DType::kBFloat16, 3, 64, 64}));
  const SampleOffsets offsets = write_sample(files_, "in.kvc", header, 200);
  files_.bytes("in.kvc")[offsets.step_ends[50] - 100] ^= std::byte{1};
  const RecoverResult result =
      recover_recording("in.kvc", "x.kvc", {.file_system = &files_, .salvage = true});
  EXPECT_EQ(result.steps, 50u);
  EXPECT_EQ(result.salvaged_steps, 149u);
  EXPECT_LE(files_.largest_read(), kVerifyBlockBytes);
}

}  // namespace
}  // namespace kvtool::format
