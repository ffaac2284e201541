// Every frozen file holds what the JSON beside it says (docs/format.md, "Conformance"). The
// JSON was made by the reader in tests/conformance, which shares no line with this one.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "format/checksum.h"
#include "format/layout.h"
#include "kvtool/format/coded_row.h"
#include "kvtool/format/logit_sample.h"
#include "kvtool/format/verify.h"
#include "sample.h"
#include "support/error_of.h"

namespace kvtool::format {
namespace {

using Json = nlohmann::json;

std::vector<std::filesystem::path> files_with(const std::string& extension) {
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(KVTOOL_TEST_DATA)) {
    if (entry.path().extension() == extension) paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

Json read_json(const std::filesystem::path& path) {
  std::ifstream file(path);
  return Json::parse(file);
}

std::string hex64(std::uint64_t number) {
  char text[20];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(number));
  return text;
}

template <std::size_t N>
std::string hex(const std::array<std::uint8_t, N>& bytes) {
  std::string text;
  for (const std::uint8_t byte : bytes) text += hex64(byte).substr(14);
  return text;
}

std::string hex(std::span<const std::byte> bytes) {
  std::string text;
  for (const std::byte byte : bytes) text += hex64(std::to_integer<std::uint64_t>(byte)).substr(14);
  return text;
}

// JSON has no NaN and no infinity.
Json number(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  return value;
}

Json numbers(const std::vector<float>& values) {
  Json list = Json::array();
  for (const float value : values) list.push_back(number(value));
  return list;
}

// ---- What the product's reader finds -----------------------------------------------

// K or V of one layer.
struct Column {
  DType dtype;
  const std::optional<RowCode>& code;
  std::uint32_t dim;
  std::uint64_t row_bytes;
  std::uint64_t offset;
};

Column column_of(const Geometry& geometry, std::size_t layer, bool is_value) {
  const LayerGeometry& shape = geometry.layer(layer);
  const RowOffset& offset = geometry.row_offset(layer);
  return is_value ? Column{shape.value_dtype, shape.value_code, shape.value_dim,
                           shape.value_bytes(), offset.value}
                  : Column{shape.key_dtype, shape.key_code, shape.key_dim, shape.key_bytes(),
                           offset.key};
}

Json describe(const Column& column) {
  Json found = {
      {"type", column.code ? code_type_name(column.code->type) : dtype_name(column.dtype)},
      {"dim", column.dim},
      {"row_bytes", column.row_bytes},
      {"offset", column.offset}};
  if (column.code) {
    found["code"] = {{"scales", dtype_name(column.code->scale_dtype)},
                     {"decodes_to", dtype_name(column.dtype)},
                     {"offsets", column.code->has_offsets},
                     {"channels_per_scale", column.code->group_channels},
                     {"positions_per_scale", column.code->group_positions}};
  }
  return found;
}

Json header_of(const RecordingHeader& header) {
  Json layers = Json::array();
  for (std::size_t i = 0; i < header.geometry.num_layers(); ++i) {
    layers.push_back({{"kv_heads", header.geometry.layer(i).num_kv_heads},
                      {"key", describe(column_of(header.geometry, i, false))},
                      {"value", describe(column_of(header.geometry, i, true))}});
  }
  return {{"uuid", hex(header.uuid)},
          {"model_sha256", to_hex(header.model_sha256)},
          {"save_mode", save_mode_name(header.save_mode)},
          {"logits_type", dtype_name(header.logits_dtype)},
          {"vocabulary", header.vocab_size},
          {"top_k", header.top_k},
          {"logits_sample", header.logits_sample},
          {"prompt_length", header.prompt_length},
          {"delta_bytes", header.geometry.delta_bytes()},
          {"statistics_bytes", stats_block_bytes(header)},
          {"stride", step_stride_bytes(header)},
          {"layers", layers}};
}

Json statistics_of(const RecordingHeader& header, const StepStats& stats, std::uint64_t token) {
  return {{"input", stats.input_token},
          {"token", stats.token},
          {"elapsed_ns", stats.elapsed_ns},
          {"log_sum_exp", number(stats.logsumexp)},
          {"digest", hex64(stats.logits_digest)},
          {"top_ids", stats.top_ids},
          {"top_logits", numbers(stats.top_logits)},
          {"sample_ids", sampled_ids(header.vocab_size, header.logits_sample, token)},
          {"sample_logits", numbers(stats.sampled_logits)}};
}

// Checksums of the prompt's K and V, [head][position][dim].
Json prompt_states(const Recording& recording) {
  const std::uint64_t positions = recording.header().prompt_length;
  Json layers = Json::array();
  for (std::uint32_t i = 0; i < recording.geometry().num_layers(); ++i) {
    const LayerGeometry& shape = recording.geometry().layer(i);
    Bytes key(shape.key_bytes() * positions);
    Bytes value(shape.value_bytes() * positions);
    recording.read_layer(i, positions, key, value);
    layers.push_back({{"key", hex64(checksum(key))}, {"value", hex64(checksum(value))}});
  }
  return layers;
}

std::span<const std::byte> row_of(const Bytes& delta, const Column& column) {
  return std::span(delta).subspan(column.offset, column.row_bytes);
}

Json rows_of(const Geometry& geometry, const Bytes& delta) {
  Json layers = Json::array();
  for (std::size_t i = 0; i < geometry.num_layers(); ++i) {
    const auto sum = [&](bool is_value) {
      return hex64(checksum(row_of(delta, column_of(geometry, i, is_value))));
    };
    layers.push_back({{"key", sum(false)}, {"value", sum(true)}});
  }
  return layers;
}

// The first head's row of each coded column.
Json coded_rows_of(const Geometry& geometry, const Bytes& delta) {
  Json rows = Json::array();
  for (std::size_t i = 0; i < geometry.num_layers(); ++i) {
    for (const bool is_value : {false, true}) {
      const Column column = column_of(geometry, i, is_value);
      if (!column.code) continue;
      const auto head = row_of(delta, column).first(coded_row_bytes(*column.code, column.dim));
      std::vector<float> values(column.dim);
      decode_row(*column.code, head, values);
      rows.push_back({{"layer", i},
                      {"column", is_value ? "value" : "key"},
                      {"head", 0},
                      {"bytes", hex(head)},
                      {"values", numbers(values)}});
    }
  }
  return rows;
}

Json step_of(const Recording& recording, std::uint64_t step) {
  const RecordingHeader& header = recording.header();
  Json found = {{"step", step},
                {"statistics", statistics_of(header, recording.read_step_stats(step), step + 1)}};
  if (!recording.has_deltas()) return found;
  Bytes delta(header.geometry.delta_bytes());
  EXPECT_EQ(recording.read_step(step, delta), recording.read_step_stats(step));
  found["rows"] = rows_of(header.geometry, delta);
  const Json coded = coded_rows_of(header.geometry, delta);
  if (!coded.empty()) found["coded_rows"] = coded;
  return found;
}

Json content_of(const Recording& recording, const Json& steps) {
  const RecordingHeader& header = recording.header();
  Json found = {{"header", header_of(header)},
                {"meta", recording.meta()},
                {"summary", recording.summary()},
                {"prompt", recording.prompt()}};
  if (!recording.has_prefill()) return found;
  found["tokens"] = recording.read_tokens();
  found["prefill"] = {{"statistics", statistics_of(header, recording.read_prefill_stats(), 0)}};
  if (recording.num_cached_positions() > 0) {
    found["prefill"]["states"] = prompt_states(recording);
  }
  found["steps"] = Json::array();
  for (const Json& step : steps) found["steps"].push_back(step_of(recording, step.at("step")));
  return found;
}

// "STEP 12", "PREFILL of layer 3", "TRAILER"; null for bytes that belong to no record.
Json damage_of(const Damage& damage) {
  const std::string name = damage.record.substr(0, damage.record.find(' '));
  Json found = {{"record", name == "unknown" || damage.in_packed ? Json() : Json(name)},
                {"index", damage.first_step.value_or(0)},
                {"last_index", damage.last_step.value_or(0)},
                {"offset", damage.offset_bytes},
                {"statistics", damage.statistics}};
  if (const auto layer = damage.record.find("of layer "); layer != std::string::npos) {
    found["index"] = found["last_index"] = std::stoull(damage.record.substr(layer + 9));
  }
  if (damage.in_packed) found["in_packed"] = true;
  if (!damage.located) return found;
  found["columns"] = Json::array();
  for (const DamagedColumn& column : damage.columns) {
    found["columns"].push_back(
        {{"layer", column.layer}, {"column", column.is_value ? "value" : "key"}});
  }
  return found;
}

Json damages_of(const FileVerdict& verdict) {
  Json found = Json::array();
  for (const Damage& damage : verdict.damages) found.push_back(damage_of(damage));
  return found;
}

// ---- Against the JSON -------------------------------------------------------------

class Conformance : public testing::TestWithParam<std::filesystem::path> {
 protected:
  [[nodiscard]] static std::filesystem::path file() {
    return std::filesystem::path(GetParam()).replace_extension(".kvc");
  }
  [[nodiscard]] static FileVerdict verdict() { return verify_files({file()}).front(); }

  void SetUp() override { expected_ = read_json(GetParam()); }
  [[nodiscard]] std::string state() const { return expected_.at("state"); }

  void expect_content();
  void expect_damage();
  void expect_refusal() const;
  void expect_nothing_else(const Recording& recording) const;
  [[nodiscard]] bool is_damaged(const std::string& record, std::uint64_t index) const;

  Json expected_;
};

void Conformance::expect_content() {
  const Recording recording = Recording::open(file());
  const FileVerdict found = verdict();
  Json content = content_of(recording, expected_.value("steps", Json::array()));
  content["file"] = file().filename();
  content["bytes"] = recording.stored_bytes();
  content["packed"] = recording.packed();
  content["state"] = recording.complete() ? "complete" : "truncated";
  content["num_steps"] = recording.num_steps();
  content["records"] = found.num_records;
  expected_.erase("made_from");
  EXPECT_TRUE(content == expected_) << Json::diff(content, expected_).dump(1);
  EXPECT_EQ(found.state, recording.complete() ? FileState::kIntact : FileState::kTruncated);
  EXPECT_NO_THROW(recording.verify());
}

bool Conformance::is_damaged(const std::string& record, std::uint64_t index) const {
  for (const Json& damage : expected_.at("damages")) {
    if (damage.at("record") == record && damage.at("index") <= index &&
        index <= damage.at("last_index")) {
      return true;
    }
  }
  return false;
}

// Whatever a damaged recording still gives is what the file that it was made from holds.
void Conformance::expect_nothing_else(const Recording& recording) const {
  std::filesystem::path source = std::filesystem::path(KVTOOL_TEST_DATA) /
                                 expected_.at("made_from").at("file").get<std::string>();
  const Json whole = read_json(source.replace_extension(".json"));
  for (const Json& step : whole.at("steps")) {
    const std::uint64_t index = step.at("step");
    const auto read = [&] { return step_of(recording, index); };
    if (is_damaged("STEP", index)) {
      EXPECT_EQ(error_of(read).code(), ErrorCode::kCorrupt) << index;
    } else {
      EXPECT_EQ(read(), step);
    }
  }
  const auto read = [&] { return prompt_states(recording); };
  if (is_damaged("PREFILL", 0) || is_damaged("PREFILL", 1)) {
    EXPECT_EQ(error_of(read).code(), ErrorCode::kCorrupt);
  } else {
    EXPECT_EQ(read(), whole.at("prefill").at("states"));
  }
}

void Conformance::expect_damage() {
  const FileVerdict found = verdict();
  EXPECT_EQ(found.state, FileState::kDamaged);
  EXPECT_EQ(found.packed, expected_.at("packed").get<bool>());
  EXPECT_EQ(found.complete, expected_.at("complete").get<bool>());
  EXPECT_EQ(found.num_steps, expected_.at("num_steps").get<std::uint64_t>());
  EXPECT_EQ(found.intact_steps, expected_.at("intact_steps").get<std::uint64_t>());
  EXPECT_EQ(damages_of(found), expected_.at("damages"));
}

void Conformance::expect_refusal() const {
  EXPECT_EQ(verdict().state, FileState::kUnreadable);
  const Error error = error_of([] { static_cast<void>(Recording::open(file())); });
  EXPECT_EQ(static_cast<int>(error.code()), expected_.at("error").at("exit_status"))
      << error.what();
}

TEST_P(Conformance, ReaderFindsWhatTheJsonSays) {
  if (state() == "refused") {
    expect_refusal();
  } else if (state() == "damaged") {
    expect_damage();
  } else {
    expect_content();
  }
}

TEST_P(Conformance, DamageIsNeverReadAsContent) {
  if (state() != "damaged") return;
  try {
    const Recording recording = Recording::open(file());
    expect_nothing_else(recording);
    EXPECT_EQ(error_of([&] { recording.verify(); }).code(), ErrorCode::kCorrupt);
  } catch (const Error& error) {
    EXPECT_EQ(static_cast<int>(error.code()), expected_.at("error").at("exit_status"));
  }
}

INSTANTIATE_TEST_SUITE_P(KvcFormat, Conformance, testing::ValuesIn(files_with(".json")),
                         [](const auto& file) { return file.param.stem().string(); });

TEST(ConformanceFiles, EveryRecordingHasItsJson) {
  std::vector<std::filesystem::path> recordings = files_with(".kvc");
  for (auto& path : recordings) path.replace_extension(".json");
  EXPECT_EQ(recordings, files_with(".json"));
}

}  // namespace
}  // namespace kvtool::format
