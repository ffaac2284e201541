#include "kvtool/format/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>

#include "format/bytes.h"
#include "sample.h"

namespace kvtool::format {
namespace {

using testing::HasSubstr;

struct Tensor {
  std::string dtype;
  std::vector<std::uint64_t> shape;
  Bytes data;
};

struct ParsedFile {
  nlohmann::json metadata;
  std::map<std::string, Tensor> tensors;
};

std::uint64_t dtype_bytes(const std::string& dtype) {
  static const std::map<std::string, std::uint64_t> sizes = {
      {"I64", 8}, {"F32", 4}, {"F16", 2}, {"BF16", 2}, {"F8_E4M3", 1}, {"F8_E5M2", 1}};
  return sizes.at(dtype);
}

// By the format's rules: tensors fill the data without holes, sizes match shapes.
ParsedFile parse(const Bytes& bytes) {
  const std::span<const std::byte> all(bytes);
  const auto length = load<std::uint64_t>(all, 0);
  EXPECT_EQ(length % 8, 0u);
  const std::string text(reinterpret_cast<const char*>(bytes.data()) + 8, length);
  EXPECT_EQ(text.front(), '{');
  const auto header = nlohmann::json::parse(text);
  const auto data = all.subspan(8 + length);
  ParsedFile file;
  std::map<std::uint64_t, std::uint64_t> ranges;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") {
      file.metadata = entry;
      continue;
    }
    Tensor tensor{entry.at("dtype"), entry.at("shape"), {}};
    const std::uint64_t begin = entry.at("data_offsets").at(0);
    const std::uint64_t end = entry.at("data_offsets").at(1);
    std::uint64_t expected = dtype_bytes(tensor.dtype);
    for (const std::uint64_t extent : tensor.shape) expected *= extent;
    EXPECT_EQ(end - begin, expected) << name;
    EXPECT_EQ(begin % dtype_bytes(tensor.dtype), 0u) << name;
    const auto part = data.subspan(begin, end - begin);
    tensor.data.assign(part.begin(), part.end());
    ranges[begin] = end;
    file.tensors[name] = std::move(tensor);
  }
  std::uint64_t position = 0;
  for (const auto& [begin, end] : ranges) {
    EXPECT_EQ(begin, position);
    position = end;
  }
  EXPECT_EQ(position, data.size());
  return file;
}

class Safetensors : public testing::Test {
 protected:
  [[nodiscard]] Recording record(SaveMode mode, std::uint64_t steps) {
    write_sample(files_, "x.kvc", sample_header(mode), steps);
    return Recording::open("x.kvc", {.file_system = &files_});
  }

  [[nodiscard]] ParsedFile exported(const Recording& recording, std::int64_t step) {
    write_safetensors(recording, step, "out/x.safetensors", &files_);
    return parse(files_.bytes("out/x.safetensors"));
  }

  static Error error_of(const std::function<void()>& call) {
    try {
      call();
    } catch (const Error& error) {
      return error;
    }
    ADD_FAILURE() << "no error";
    return {ErrorCode::kCorrupt, ""};
  }

  MemoryFileSystem files_;
};

TEST_F(Safetensors, HoldsTheCacheAndTokensOfEveryStep) {
  const Geometry geometry = sample_geometry();
  for (const SaveMode mode : {SaveMode::kDelta, SaveMode::kFinalOnly}) {
    const Recording recording = record(mode, 3);
    for (std::int64_t step = -1; step < 3; ++step) {
      const auto positions = static_cast<std::uint64_t>(3 + step + 1);
      const ParsedFile file = exported(recording, step);
      ASSERT_EQ(file.tensors.size(), 5u);
      for (std::uint32_t layer = 0; layer < 2; ++layer) {
        const LayerGeometry& shape = geometry.layer(layer);
        const Tensor& key = file.tensors.at("key." + std::to_string(layer));
        const Tensor& value = file.tensors.at("value." + std::to_string(layer));
        EXPECT_EQ(key.dtype, safetensors_name(shape.key_dtype));
        EXPECT_EQ(value.dtype, safetensors_name(shape.value_dtype));
        EXPECT_EQ(key.shape,
                  (std::vector<std::uint64_t>{shape.num_kv_heads, positions, shape.key_dim}));
        EXPECT_EQ(value.shape,
                  (std::vector<std::uint64_t>{shape.num_kv_heads, positions, shape.value_dim}));
        EXPECT_EQ(key.data, sample_key(geometry, layer, positions));
        EXPECT_EQ(value.data, sample_value(geometry, layer, positions));
      }
      const Tensor& tokens = file.tensors.at("tokens");
      ASSERT_EQ(tokens.dtype, "I64");
      ASSERT_EQ(tokens.shape, std::vector<std::uint64_t>{positions + 1});
      std::vector<std::int32_t> expected = sample_prompt(recording.header());
      const std::vector<std::int32_t> generated = recording.read_tokens();
      expected.insert(expected.end(), generated.begin(), generated.begin() + step + 2);
      for (std::size_t i = 0; i < expected.size(); ++i) {
        EXPECT_EQ(load<std::int64_t>(tokens.data, 8 * i), expected[i]) << i;
      }
    }
  }
}

TEST_F(Safetensors, CarriesWhereItComesFromAsStrings) {
  const ParsedFile file = exported(record(SaveMode::kDelta, 2), 1);
  EXPECT_EQ(file.metadata.at("model"), "tiny/model");
  EXPECT_EQ(file.metadata.at("device"), "CPU");
  EXPECT_EQ(file.metadata.at("dtype"), "mixed");
  EXPECT_EQ(file.metadata.at("step"), "1");
  EXPECT_EQ(file.metadata.at("prompt_length"), "3");
  EXPECT_EQ(file.metadata.at("uuid"), "10111213-1415-1617-1819-1a1b1c1d1e1f");
  EXPECT_THAT(file.metadata.at("model_sha256").get<std::string>(), HasSubstr("a0a1a2"));
}

TEST_F(Safetensors, PrefillOnlyHasTheStateAfterThePrefill) {
  const Recording recording = record(SaveMode::kPrefillOnly, 2);
  EXPECT_EQ(exported(recording, -1).tensors.at("key.0").data, sample_key(sample_geometry(), 0, 3));
  const Error error = error_of([&] { write_safetensors(recording, 0, "y", &files_); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_STREQ(error.what(),
               "x.kvc: has no K/V for step 0, the last one is -1 (right after the prefill)");
}

TEST_F(Safetensors, NamesTheLastStepThatThereIs) {
  const Recording recording = record(SaveMode::kDelta, 2);
  for (const std::int64_t step : {std::int64_t{2}, std::int64_t{-2}, INT64_MAX, INT64_MIN}) {
    const Error error = error_of([&] { write_safetensors(recording, step, "y", &files_); });
    EXPECT_EQ(error.code(), ErrorCode::kUsage);
    EXPECT_EQ(std::string(error.what()),
              "x.kvc: has no K/V for step " + std::to_string(step) + ", the last one is step 1");
  }
}

TEST_F(Safetensors, TruncatedFinalOnlyHasNoCache) {
  static_cast<void>(record(SaveMode::kFinalOnly, 2));
  files_.bytes("x.kvc").pop_back();
  const Recording recording = Recording::open("x.kvc", {.file_system = &files_});
  EXPECT_THAT(error_of([&] { write_safetensors(recording, 0, "y", &files_); }).what(),
              HasSubstr("holds no K/V"));
}

TEST_F(Safetensors, FailureAtAnyCallLeavesTheOlderFileAndNoPartialOne) {
  const Recording recording = record(SaveMode::kDelta, 1);
  files_.fail_call(-1);
  write_safetensors(recording, 0, "y", &files_);
  const int calls = files_.calls();
  const Bytes old = {std::byte{1}};
  for (int call = 0; call < calls; ++call) {
    files_.put("y", old);
    files_.fail_call(call);
    EXPECT_EQ(error_of([&] { write_safetensors(recording, 0, "y", &files_); }).code(),
              ErrorCode::kEnvironment);
    EXPECT_EQ(files_.bytes("y"), old);
    EXPECT_FALSE(files_.exists("y.partial"));
  }
}

TEST_F(Safetensors, DamagedStepIsNotExported) {
  const SampleOffsets offsets = write_sample(files_, "x.kvc", sample_header(SaveMode::kDelta), 2);
  files_.bytes("x.kvc")[offsets.step_ends[1] - 10] ^= std::byte{1};
  const Recording recording = Recording::open("x.kvc", {.file_system = &files_});
  EXPECT_EQ(error_of([&] { write_safetensors(recording, 1, "y", &files_); }).code(),
            ErrorCode::kCorrupt);
  EXPECT_FALSE(files_.exists("y"));
}

}  // namespace
}  // namespace kvtool::format
