#include "kvtool/run/made_recording.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "kvtool/base/error.h"
#include "kvtool/format/row.h"
#include "kvtool/run/paths.h"

namespace kvtool::run {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kPromptLength = 128;
constexpr std::uint32_t kTopK = 32;
constexpr std::uint32_t kVocabSize = 128256;
constexpr std::uint64_t kMaxSteps = std::uint64_t{1} << 26U;  // docs/format.md, "Limits"

format::RecordingHeader random_header() {
  format::RecordingHeader header;
  header.save_mode = format::SaveMode::kDelta;
  header.logits_dtype = DType::kBFloat16;
  header.vocab_size = kVocabSize;
  header.top_k = kTopK;
  header.prompt_length = kPromptLength;
  header.geometry = format::Geometry(
      std::vector<format::LayerGeometry>(32, {DType::kBFloat16, DType::kBFloat16, 8, 128, 128}));
  return header;
}

// bfloat16 without the highest bit of the exponent: never NaN or Inf.
std::vector<std::byte> random_values(std::uint64_t bytes) {
  std::mt19937_64 random(1);
  std::vector<std::byte> values(bytes);
  for (std::byte& value : values) value = static_cast<std::byte>(random() & 0xFFU);
  for (std::size_t i = 1; i < values.size(); i += 2) values[i] &= std::byte{0xBF};
  return values;
}

class RandomRows : public format::RowSource {
 public:
  [[nodiscard]] const format::RecordingHeader& header() const override { return header_; }
  [[nodiscard]] std::span<const std::int32_t> prompt() const override { return prompt_; }
  [[nodiscard]] std::uint64_t num_steps() const override { return kMaxSteps; }
  [[nodiscard]] bool has_prefill_kv() const override { return true; }
  [[nodiscard]] bool has_step_kv() const override { return true; }
  [[nodiscard]] format::StepStats prefill_stats() const override { return stats(-1); }

  void read_prefill_layer(std::uint32_t layer, std::span<std::byte> key,
                          std::span<std::byte> value) const override {
    take(layer, key);
    take(layer + 1, value);
  }
  [[nodiscard]] format::StepStats read_step(std::uint64_t step,
                                            std::span<std::byte> delta) const override {
    take(step, delta);
    return stats(0);
  }

 private:
  // Starts elsewhere each time, so that no two neighbours are the same.
  void take(std::uint64_t turn, std::span<std::byte> target) const {
    const std::uint64_t begin = turn * 2 % (values_.size() - target.size());
    std::ranges::copy(std::span(values_).subspan(begin, target.size()), target.begin());
  }

  static format::StepStats stats(std::int32_t input_token) {
    format::StepStats stats;
    stats.input_token = input_token;
    stats.token = 0;
    stats.logsumexp = std::log(static_cast<double>(kVocabSize));
    for (std::uint32_t i = 0; i < kTopK; ++i) {
      stats.top_ids.push_back(static_cast<std::int32_t>(i));
      stats.top_logits.push_back(0.0F);
    }
    return stats;
  }

  format::RecordingHeader header_ = random_header();
  std::vector<std::int32_t> prompt_ = std::vector<std::int32_t>(kPromptLength, 0);
  std::vector<std::byte> values_ =
      random_values(2 * std::max(kPromptLength * header_.geometry.layer(0).key_bytes(),
                                 header_.geometry.delta_bytes()));
};

nlohmann::json random_meta() {
  return {{"kvtool", KVTOOL_VERSION},
          {"model", {{"id", "kvtool/random"}, {"slug", "kvtool_random"}}},
          {"device", {{"label", "RANDOM"}}}};
}

void check_target(const fs::path& path, std::uint64_t bytes) {
  if (!is_recording_path(path)) throw_usage(path.string() + ": a recording's name ends in .kvc");
  if (fs::exists(path)) throw_usage(path.string() + " exists already: choose another name");
  const fs::path folder = path.has_parent_path() ? path.parent_path() : ".";
  if (!fs::is_directory(folder)) throw_usage("the folder " + folder.string() + " does not exist");
  const std::uint64_t available = fs::space(folder).available;
  if (available / 100 * 99 < bytes) {
    throw_environment(folder.string() + " has room for " + std::to_string(available / 1000000) +
                      " MB, and " + std::to_string(bytes / 1000000) + " MB are asked for");
  }
}

void write_prefill(const format::RowSource& rows, format::RecordingWriter& writer) {
  const format::RecordingHeader& header = rows.header();
  std::vector<std::byte> key;
  std::vector<std::byte> value;
  for (std::uint32_t i = 0; i < header.geometry.num_layers(); ++i) {
    const format::LayerGeometry& layer = header.geometry.layer(i);
    key.resize(header.prompt_length * layer.key_bytes());
    value.resize(header.prompt_length * layer.value_bytes());
    rows.read_prefill_layer(i, key, value);
    writer.write_prefill_layer(i, key, value);
  }
  writer.write_prefill_end(rows.prefill_stats());
}

void write_rows(const format::RowSource& rows, format::RecordingWriter& writer, std::uint64_t bytes,
                const StopToken& stop) {
  write_prefill(rows, writer);
  std::vector<std::byte> delta(rows.header().geometry.delta_bytes());
  std::uint64_t step = 0;
  for (; writer.bytes_written() < bytes && step < kMaxSteps; ++step) {
    stop.throw_if_requested();
    const format::StepStats stats = rows.read_step(step % rows.num_steps(), delta);
    writer.write_step(stats, delta);
  }
  writer.finish({{"steps", step}});
}

std::uint64_t write(const fs::path& path, std::uint64_t bytes, const format::RowSource& rows,
                    const nlohmann::json& meta, const StopToken& stop) {
  format::RecordingHeader header = rows.header();
  header.uuid = format::random_uuid();
  format::RecordingWriter writer(path, header, meta, rows.prompt());
  try {
    write_rows(rows, writer, bytes, stop);
  } catch (...) {
    std::error_code ignored;
    fs::remove(writer.partial_path(), ignored);
    throw;
  }
  return writer.bytes_written();
}

}  // namespace

std::uint64_t make_recording(const fs::path& path, std::uint64_t bytes,
                             const std::optional<fs::path>& like, const StopToken& stop) {
  check_target(path, bytes);
  if (!like) return write(path, bytes, RandomRows(), random_meta(), stop);
  const auto recording = format::Recording::open(*like);
  if (recording.header().save_mode != format::SaveMode::kDelta || recording.num_steps() == 0) {
    throw_usage(like->string() + " holds no K/V of single steps: name a recording of mode delta");
  }
  return write(path, bytes, *format::make_row_source(recording), recording.meta(), stop);
}

}  // namespace kvtool::run
