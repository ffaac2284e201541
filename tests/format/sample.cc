#include "sample.h"

#include <gtest/gtest.h>

#include <numeric>

#include "kvtool/format/pack.h"

namespace kvtool::format {
namespace {

std::byte sample_byte(std::uint32_t layer, bool is_value, std::uint64_t head,
                      std::uint64_t position, std::uint64_t index) {
  return static_cast<std::byte>(layer * 31 + (is_value ? 17 : 0) + head * 7 + position * 13 +
                                index * 3 + 1);
}

Bytes sample_tensor(std::uint32_t layer, bool is_value, std::uint64_t heads,
                    std::uint64_t row_bytes, std::uint64_t first, std::uint64_t positions) {
  Bytes bytes;
  bytes.reserve(heads * positions * row_bytes);
  for (std::uint64_t head = 0; head < heads; ++head) {
    for (std::uint64_t position = first; position < first + positions; ++position) {
      for (std::uint64_t i = 0; i < row_bytes; ++i) {
        bytes.push_back(sample_byte(layer, is_value, head, position, i));
      }
    }
  }
  return bytes;
}

Bytes key_rows(const Geometry& geometry, std::uint32_t layer, std::uint64_t first,
               std::uint64_t positions) {
  const LayerGeometry& shape = geometry.layer(layer);
  return sample_tensor(layer, false, shape.num_kv_heads, shape.key_bytes() / shape.num_kv_heads,
                       first, positions);
}

Bytes value_rows(const Geometry& geometry, std::uint32_t layer, std::uint64_t first,
                 std::uint64_t positions) {
  const LayerGeometry& shape = geometry.layer(layer);
  return sample_tensor(layer, true, shape.num_kv_heads, shape.value_bytes() / shape.num_kv_heads,
                       first, positions);
}

StepStats make_stats(const RecordingHeader& header, std::int32_t input, std::int32_t token) {
  StepStats stats;
  stats.input_token = input;
  stats.token = token;
  stats.elapsed_ns = 1000 + token;
  stats.logsumexp = 4.25 + token;
  stats.logits_digest = 0x0123456789abcdefULL * static_cast<std::uint64_t>(token + 1);
  for (std::uint32_t i = 0; i < header.top_k; ++i) {
    stats.top_ids.push_back((token + static_cast<std::int32_t>(i)) %
                            static_cast<std::int32_t>(header.vocab_size));
    stats.top_logits.push_back(2.5f - static_cast<float>(i));
  }
  for (std::uint32_t i = 0; i < header.logits_sample; ++i) {
    stats.sampled_logits.push_back(static_cast<float>(token) - 0.5f * static_cast<float>(i));
  }
  return stats;
}

std::int32_t sample_token(const RecordingHeader& header, std::uint64_t index) {
  return static_cast<std::int32_t>((7 * index + 5) % header.vocab_size);
}

}  // namespace

Geometry sample_geometry() {
  return Geometry({{DType::kBFloat16, DType::kBFloat16, 2, 4, 4},
                   {DType::kFloat32, DType::kFloat8E4M3, 1, 3, 5}});
}

RecordingHeader sample_header(SaveMode mode) {
  RecordingHeader header;
  std::iota(header.uuid.begin(), header.uuid.end(), std::uint8_t{0x10});
  std::iota(header.model_sha256.begin(), header.model_sha256.end(), std::uint8_t{0xa0});
  header.save_mode = mode;
  header.logits_dtype = DType::kBFloat16;
  header.vocab_size = 50;
  header.top_k = 2;
  header.prompt_length = 3;
  header.geometry = sample_geometry();
  return header;
}

RecordingHeader extended_header(SaveMode mode) {
  RecordingHeader header = sample_header(mode);
  const auto layer = [](DType decoded, RowCode key, std::optional<RowCode> value) {
    LayerGeometry shape{decoded, DType::kBFloat16, 2, 5, 4};
    shape.key_code = key;
    shape.value_code = value;
    return shape;
  };
  header.geometry =
      Geometry({layer(DType::kBFloat16, {CodeType::kInt4, DType::kFloat16, false, 2},
                      RowCode{CodeType::kUInt4, DType::kFloat16, true, 4, 32}),
                layer(DType::kFloat32, {CodeType::kInt8, DType::kFloat32, false, 5}, std::nullopt),
                layer(DType::kFloat16, {CodeType::kUInt8, DType::kBFloat16, true, 1},
                      RowCode{CodeType::kFloat8E4M3, DType::kFloat32, false, 4, 0})});
  header.logits_sample = 3;
  return header;
}

nlohmann::json sample_meta() {
  return {{"model", {{"id", "tiny/model"}}}, {"device", {{"label", "CPU"}}}};
}

nlohmann::json sample_summary(std::uint64_t steps) { return {{"steps", steps}}; }

std::vector<std::int32_t> sample_prompt(const RecordingHeader& header) {
  std::vector<std::int32_t> prompt;
  for (std::uint64_t i = 0; i < header.prompt_length; ++i) {
    prompt.push_back(static_cast<std::int32_t>((3 * i + 1) % header.vocab_size));
  }
  return prompt;
}

StepStats sample_prefill_stats(const RecordingHeader& header) {
  return make_stats(header, -1, sample_token(header, 0));
}

StepStats sample_stats(const RecordingHeader& header, std::uint64_t step) {
  return make_stats(header, sample_token(header, step), sample_token(header, step + 1));
}

Bytes sample_key(const Geometry& geometry, std::uint32_t layer, std::uint64_t positions) {
  return key_rows(geometry, layer, 0, positions);
}

Bytes sample_value(const Geometry& geometry, std::uint32_t layer, std::uint64_t positions) {
  return value_rows(geometry, layer, 0, positions);
}

Bytes sample_delta(const Geometry& geometry, std::uint64_t position) {
  Bytes delta(geometry.delta_bytes());
  const auto place = [&delta](const Bytes& row, std::uint64_t at) {
    std::copy(row.begin(), row.end(), delta.begin() + static_cast<std::ptrdiff_t>(at));
  };
  for (std::uint32_t layer = 0; layer < geometry.num_layers(); ++layer) {
    place(key_rows(geometry, layer, position, 1), geometry.row_offset(layer).key);
    place(value_rows(geometry, layer, position, 1), geometry.row_offset(layer).value);
  }
  return delta;
}

SampleOffsets write_sample(FileSystem& files, const std::filesystem::path& path,
                           const RecordingHeader& header, std::uint64_t steps, bool sync) {
  const auto layers = static_cast<std::uint32_t>(header.geometry.num_layers());
  SampleOffsets offsets;
  RecordingWriter writer(path, header, sample_meta(), sample_prompt(header),
                         {.file_system = &files, .sync = sync});
  offsets.prompt_end = writer.bytes_written();
  if (header.save_mode != SaveMode::kFinalOnly) {
    for (std::uint32_t i = 0; i < layers; ++i) {
      writer.write_prefill_layer(i, sample_key(header.geometry, i, header.prompt_length),
                                 sample_value(header.geometry, i, header.prompt_length));
    }
  }
  writer.write_prefill_end(sample_prefill_stats(header));
  offsets.prefill_end = writer.bytes_written();
  for (std::uint64_t step = 0; step < steps; ++step) {
    const bool with_delta = header.save_mode == SaveMode::kDelta;
    writer.write_step(
        sample_stats(header, step),
        with_delta ? sample_delta(header.geometry, header.prompt_length + step) : Bytes());
    offsets.step_ends.push_back(writer.bytes_written());
  }
  if (header.save_mode == SaveMode::kFinalOnly) {
    const std::uint64_t positions = header.prompt_length + steps;
    for (std::uint32_t i = 0; i < layers; ++i) {
      writer.write_final_layer(i, sample_key(header.geometry, i, positions),
                               sample_value(header.geometry, i, positions));
    }
  }
  offsets.data_end = writer.bytes_written();
  writer.finish(sample_summary(steps));
  offsets.file_bytes = writer.bytes_written();
  return offsets;
}

Bytes sample_bytes(SaveMode mode, std::uint64_t steps, SampleOffsets* offsets) {
  return sample_bytes(sample_header(mode), steps, offsets);
}

Bytes sample_bytes(const RecordingHeader& header, std::uint64_t steps, SampleOffsets* offsets) {
  MemoryFileSystem files;
  const SampleOffsets found = write_sample(files, "x.kvc", header, steps);
  if (offsets != nullptr) *offsets = found;
  return files.bytes("x.kvc");
}

Bytes packed_sample(SaveMode mode, std::uint64_t steps) {
  return packed_bytes(sample_bytes(mode, steps));
}

Bytes packed_bytes(const Bytes& bytes) {
  MemoryFileSystem files;
  files.put("x.kvc", bytes);
  pack_recording("x.kvc", {.file_system = &files});
  return files.bytes("x.kvc");
}

Bytes bytes_of(std::initializer_list<int> values) {
  Bytes bytes;
  for (const int value : values) bytes.push_back(static_cast<std::byte>(value));
  return bytes;
}

Bytes first_bytes(const Bytes& bytes, std::uint64_t count) {
  return {bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(count)};
}

Recording open_bytes(const Bytes& bytes, const std::string& name) {
  // The recording's file points back to the file system, so it must live on.
  static MemoryFileSystem files;
  files.put(name, bytes);
  return Recording::open(name, {.file_system = &files});
}

namespace {

void expect_layers(const Recording& recording, std::uint64_t positions) {
  const Geometry& geometry = recording.geometry();
  for (std::uint32_t layer = 0; layer < geometry.num_layers(); ++layer) {
    Bytes key(geometry.layer(layer).key_bytes() * positions);
    Bytes value(geometry.layer(layer).value_bytes() * positions);
    recording.read_layer(layer, positions, key, value);
    ASSERT_EQ(key, sample_key(geometry, layer, positions)) << layer << " " << positions;
    ASSERT_EQ(value, sample_value(geometry, layer, positions)) << layer << " " << positions;
  }
}

}  // namespace

void expect_sample(const Recording& recording, std::uint64_t steps) {
  const RecordingHeader& header = recording.header();
  ASSERT_EQ(recording.meta(), sample_meta());
  ASSERT_EQ(std::vector(recording.prompt().begin(), recording.prompt().end()),
            sample_prompt(header));
  ASSERT_TRUE(recording.has_prefill());
  ASSERT_EQ(recording.num_steps(), steps);
  ASSERT_EQ(recording.read_prefill_stats(), sample_prefill_stats(header));
  const std::vector<std::int32_t> tokens = recording.read_tokens();
  ASSERT_EQ(tokens.size(), steps + 1);
  ASSERT_EQ(tokens.front(), sample_prefill_stats(header).token);
  for (std::uint64_t step = 0; step < steps; ++step) {
    ASSERT_EQ(recording.read_step_stats(step), sample_stats(header, step));
    ASSERT_EQ(tokens[step + 1], sample_stats(header, step).token);
    if (!recording.has_deltas()) continue;
    Bytes delta(header.geometry.delta_bytes(), std::byte{0xee});
    ASSERT_EQ(recording.read_step(step, delta), sample_stats(header, step));
    ASSERT_EQ(delta, sample_delta(header.geometry, header.prompt_length + step)) << step;
  }
  for (std::uint64_t n = 0; n <= recording.num_cached_positions(); ++n) expect_layers(recording, n);
}

}  // namespace kvtool::format
