#include "salvage.h"

#include <algorithm>
#include <array>
#include <functional>
#include <nlohmann/json.hpp>

#include "format/bytes.h"
#include "format/layout.h"
#include "format/records/block_reader.h"
#include "format/safetensors_header.h"
#include "kvtool/base/checked.h"
#include "kvtool/base/error.h"

namespace kvtool::format {
namespace {

// Collects small pieces, so that the file sees blocks.
class PieceWriter {
 public:
  PieceWriter(const RecordSource& source, WritableFile& file) : source_(source), file_(file) {
    block_.reserve(kVerifyBlockBytes);
  }

  void copy(std::uint64_t offset, std::uint64_t bytes) {
    while (bytes > 0) {
      const std::uint64_t part = std::min<std::uint64_t>(bytes, kVerifyBlockBytes - block_.size());
      const std::size_t at = block_.size();
      block_.resize(at + part);
      source_.read(offset, std::span(block_).subspan(at));
      if (block_.size() == kVerifyBlockBytes) flush();
      offset += part;
      bytes -= part;
    }
  }
  void flush() {
    file_.append(block_);
    block_.clear();
  }

 private:
  const RecordSource& source_;
  WritableFile& file_;
  std::vector<std::byte> block_;
};

struct Tensor {
  std::string name;
  std::string_view dtype;
  std::size_t element = 8;
  std::vector<std::uint64_t> shape;
  std::uint64_t bytes = 0;
  std::function<void(PieceWriter&, WritableFile&)> write;
};

class Salvage {
 public:
  explicit Salvage(const SalvageRequest& request)
      : request_(request), header_(request.scan.header()), geometry_(header_.geometry) {
    require_plain(geometry_, request_.scan.source().path().string(), "a safetensors file");
    find_steps();
    if (!steps_.empty()) add_steps();
    if (request_.states) add_states();
    // Behind a header of a multiple of eight bytes each starts at a multiple of its element size.
    std::stable_sort(tensors_.begin(), tensors_.end(),
                     [](const Tensor& a, const Tensor& b) { return a.element > b.element; });
  }

  [[nodiscard]] Salvaged counts() const {
    const bool delta = header_.save_mode == SaveMode::kDelta;
    return {tensors_.size(), delta ? kv_steps_.size() : steps_.size()};
  }

  void write_to(WritableFile& file) const {
    const std::string text = header_text();
    std::array<std::byte, 8> length{};
    store(std::span<std::byte>(length), 0, std::uint64_t{text.size()});
    file.append(length);
    file.append(std::as_bytes(std::span(text)));
    PieceWriter pieces(request_.scan.source(), file);
    for (const Tensor& tensor : tensors_) {
      tensor.write(pieces, file);
      pieces.flush();
    }
  }

 private:
  void find_steps();
  void add_steps();
  void add_states();
  void add_state(RecordType type, const std::string& prefix, std::uint32_t layer,
                 std::uint64_t positions);
  void add_numbers(const std::string& name, const std::vector<std::int64_t>& values);
  void add_rows(const std::string& name, DType dtype, std::uint64_t heads, std::uint64_t dim,
                std::uint64_t row_offset);
  [[nodiscard]] std::uint64_t step_payload(std::uint64_t step) const {
    return request_.result.first_step + step * step_stride_bytes(header_) + kRecordHeaderBytes;
  }
  [[nodiscard]] std::string header_text() const;

  const SalvageRequest& request_;
  const RecordingHeader& header_;
  const Geometry& geometry_;
  std::vector<std::int64_t> steps_;  // whose statistics are intact
  std::vector<std::int64_t> inputs_;
  std::vector<std::int64_t> tokens_;
  std::vector<std::int64_t> kv_steps_;  // whose whole record is intact
  std::vector<std::int64_t> positions_;
  std::vector<Tensor> tensors_;
};

void Salvage::find_steps() {
  ReadBlock block = make_block();
  BlockReader reader(request_.scan.source(), block);
  auto bad = request_.result.bad.begin();
  const auto end = request_.result.bad.end();
  for (std::uint64_t step = request_.first_step; step < request_.result.num_steps; ++step) {
    const std::uint64_t record = step_payload(step) - kRecordHeaderBytes;
    while (bad != end && bad->record.offset + bad->bytes <= record) ++bad;
    const bool intact = bad == end || bad->record.offset >= record + step_stride_bytes(header_);
    const auto stats =
        decode_stats(header_, reader.all(step_payload(step), stats_block_bytes(header_)));
    // A step's statistics have their own checksum, but not their own place.
    const bool placed =
        intact || (bad->record.type == RecordType::kStep &&
                   (bad->fault == Fault::kPayload || bad->fault == Fault::kUnpacking));
    if (request_.scan.unpacking_problem(step_payload(step), stats_block_bytes(header_))) {
      continue;
    }
    if (!stats || !placed || !stats_problem(header_, *stats, false).empty()) continue;
    steps_.push_back(static_cast<std::int64_t>(step));
    inputs_.push_back(stats->input_token);
    tokens_.push_back(stats->token);
    if (!intact || header_.save_mode != SaveMode::kDelta) continue;
    kv_steps_.push_back(static_cast<std::int64_t>(step));
    positions_.push_back(static_cast<std::int64_t>(header_.prompt_length + step));
  }
}

void Salvage::add_numbers(const std::string& name, const std::vector<std::int64_t>& values) {
  tensors_.push_back({name,
                      "I64",
                      8,
                      {values.size()},
                      values.size() * sizeof(std::int64_t),
                      [&values](PieceWriter&, WritableFile& file) {
                        file.append(std::as_bytes(std::span(values)));
                      }});
}

void Salvage::add_steps() {
  add_numbers("steps", steps_);
  add_numbers("input_tokens", inputs_);
  add_numbers("tokens", tokens_);
  if (kv_steps_.empty()) return;
  add_numbers("kv_steps", kv_steps_);
  add_numbers("positions", positions_);
  for (std::size_t i = 0; i < geometry_.num_layers(); ++i) {
    const LayerGeometry& layer = geometry_.layer(i);
    const RowOffset& row = geometry_.row_offset(i);
    add_rows("key." + std::to_string(i), layer.key_dtype, layer.num_kv_heads, layer.key_dim,
             row.key);
    add_rows("value." + std::to_string(i), layer.value_dtype, layer.num_kv_heads, layer.value_dim,
             row.value);
  }
}

// [heads, kv_steps, dim] out of rows [heads, dim].
void Salvage::add_rows(const std::string& name, DType dtype, std::uint64_t heads, std::uint64_t dim,
                       std::uint64_t row_offset) {
  const std::uint64_t bytes = dim * element_size(dtype);
  const std::uint64_t row = stats_block_bytes(header_) + row_offset;
  tensors_.push_back({name,
                      safetensors_name(dtype),
                      element_size(dtype),
                      {heads, kv_steps_.size(), dim},
                      heads * kv_steps_.size() * bytes,
                      [this, heads, bytes, row](PieceWriter& pieces, WritableFile&) {
                        for (std::uint64_t head = 0; head < heads; ++head) {
                          for (const std::int64_t step : kv_steps_) {
                            pieces.copy(
                                step_payload(static_cast<std::uint64_t>(step)) + row + head * bytes,
                                bytes);
                          }
                        }
                      }});
}

void Salvage::add_states() {
  const bool finals = header_.save_mode == SaveMode::kFinalOnly;
  const RecordType type = finals ? RecordType::kFinal : RecordType::kPrefill;
  const std::string prefix = finals ? "final." : "prefill.";
  const std::uint64_t positions = header_.prompt_length + (finals ? request_.result.num_steps : 0);
  for (std::uint32_t i = 0; i < geometry_.num_layers(); ++i) add_state(type, prefix, i, positions);
}

// K and V apart where CHECKSUMS say that one of them is intact.
void Salvage::add_state(RecordType type, const std::string& prefix, std::uint32_t layer,
                        std::uint64_t positions) {
  const auto found = request_.result.records.find({type, layer});
  if (found == request_.result.records.end()) return;
  const auto layout = state_layout(geometry_.layer(layer), positions);
  if (!layout || found->second.stored_bytes != layout->payload_bytes) return;
  bool key = true;
  bool value = true;
  for (const Damage& damage : request_.verdict.damages) {
    if (damage.in_packed || damage.offset_bytes != found->second.offset) continue;
    const auto wrong = [&](bool is_value) {
      return !damage.located || std::find(damage.columns.begin(), damage.columns.end(),
                                          DamagedColumn{layer, is_value}) != damage.columns.end();
    };
    key = !wrong(false);
    value = !wrong(true);
  }
  const LayerGeometry& shape = geometry_.layer(layer);
  const std::uint64_t start = found->second.offset + kRecordHeaderBytes;
  const auto add = [&](const char* name, DType dtype, std::uint64_t dim, std::uint64_t offset,
                       std::uint64_t bytes) {
    tensors_.push_back(
        {prefix + name + std::to_string(layer),
         safetensors_name(dtype),
         element_size(dtype),
         {shape.num_kv_heads, positions, dim},
         bytes,
         [offset, bytes](PieceWriter& pieces, WritableFile&) { pieces.copy(offset, bytes); }});
  };
  if (key) add("key.", shape.key_dtype, shape.key_dim, start, layout->key_bytes);
  if (value) {
    add("value.", shape.value_dtype, shape.value_dim, start + layout->value_offset,
        layout->value_bytes);
  }
}

std::string Salvage::header_text() const {
  nlohmann::ordered_json header;
  header["__metadata__"] = {{"salvaged_from", request_.scan.source().path().filename().string()},
                            {"uuid", to_string(header_.uuid)},
                            {"model_sha256", to_hex(header_.model_sha256)},
                            {"save_mode", save_mode_name(header_.save_mode)},
                            {"prompt_length", std::to_string(header_.prompt_length)}};
  std::uint64_t offset = 0;
  for (const Tensor& tensor : tensors_) {
    header[tensor.name] = {{"dtype", tensor.dtype},
                           {"shape", tensor.shape},
                           {"data_offsets", {offset, offset + tensor.bytes}}};
    offset += tensor.bytes;
  }
  return safetensors_header_text(header);
}

}  // namespace

Salvaged count_salvage(const SalvageRequest& request) { return Salvage(request).counts(); }

Salvaged write_salvage(const SalvageRequest& request, WritableFile& file) {
  const Salvage salvage(request);
  salvage.write_to(file);
  return salvage.counts();
}

}  // namespace kvtool::format
