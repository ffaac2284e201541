#include "kvtool/format/safetensors.h"

#include <algorithm>
#include <array>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "bytes.h"
#include "kvtool/base/checked.h"
#include "kvtool/base/error.h"
#include "kvtool/format/writer.h"
#include "safetensors_header.h"

namespace kvtool::format {
namespace {

// Tensors stand in descending element size, so that behind a header of a
// multiple of eight bytes each starts at a multiple of its own element size.
constexpr std::array<std::size_t, 3> kElementSizes = {4, 2, 1};

// META is advisory: model and device are names, or objects that hold one.
std::string meta_name(const nlohmann::json& meta, const char* key) {
  const auto found = meta.find(key);
  if (found == meta.end()) return "unknown";
  if (found->is_string()) return found->get<std::string>();
  for (const char* inner : {"id", "label", "name", "slug"}) {
    if (found->is_object() && found->contains(inner) && found->at(inner).is_string()) {
      return found->at(inner).get<std::string>();
    }
  }
  return "unknown";
}

std::string dtype_summary(const Geometry& geometry) {
  const DType first = geometry.layer(0).key_dtype;
  for (const LayerGeometry& layer : geometry.layers()) {
    if (layer.key_dtype != first || layer.value_dtype != first) return "mixed";
  }
  return std::string(dtype_name(first));
}

std::uint64_t positions_at(const Recording& recording, std::int64_t step) {
  const std::uint64_t prompt = recording.header().prompt_length;
  const std::uint64_t cached = recording.num_cached_positions();
  const std::string path = recording.path().string();
  if (cached == 0)
    throw_usage(path + ": holds no K/V" +
                (recording.complete() ? "" : ": " + recording.truncation()));
  const auto last = static_cast<std::int64_t>(cached - prompt) - 1;
  if (step < -1 || step > last) {
    throw_usage(path + ": has no K/V for step " + std::to_string(step) + ", the last one is " +
                (last < 0 ? "-1 (right after the prefill)" : "step " + std::to_string(last)));
  }
  return prompt + static_cast<std::uint64_t>(step + 1);
}

class Export {
 public:
  Export(const Recording& recording, std::int64_t step)
      : recording_(recording), step_(step), positions_(positions_at(recording, step)) {
    require_plain(recording.geometry(), recording.path().string(), "a safetensors file");
    tokens_.assign(recording.prompt().begin(), recording.prompt().end());
    const std::vector<std::int32_t> generated = recording.read_tokens();
    tokens_.insert(tokens_.end(), generated.begin(), generated.begin() + step + 2);
  }

  void write_to(WritableFile& file) const {
    const std::string header = header_text();
    std::array<std::byte, 8> length{};
    store(std::span<std::byte>(length), 0, std::uint64_t{header.size()});
    file.append(length);
    file.append(std::as_bytes(std::span(header)));
    file.append(std::as_bytes(std::span(tokens_)));
    for (const std::size_t size : kElementSizes) write_layers(file, size);
  }

 private:
  [[nodiscard]] std::string header_text() const {
    nlohmann::ordered_json header;
    header["__metadata__"] = metadata();
    std::uint64_t offset = 0;
    const auto add = [&](const std::string& name, std::string_view dtype,
                         const std::vector<std::uint64_t>& shape, std::uint64_t bytes) {
      header[name] = {
          {"dtype", dtype}, {"shape", shape}, {"data_offsets", {offset, offset + bytes}}};
      offset += bytes;
    };
    add("tokens", "I64", {tokens_.size()}, tokens_.size() * sizeof(std::int64_t));
    for (const std::size_t size : kElementSizes) {
      for (std::size_t i = 0; i < recording_.geometry().num_layers(); ++i) {
        const LayerGeometry& layer = recording_.geometry().layer(i);
        const std::string suffix = "." + std::to_string(i);
        if (element_size(layer.key_dtype) == size) {
          add("key" + suffix, safetensors_name(layer.key_dtype),
              {layer.num_kv_heads, positions_, layer.key_dim}, layer.key_bytes() * positions_);
        }
        if (element_size(layer.value_dtype) == size) {
          add("value" + suffix, safetensors_name(layer.value_dtype),
              {layer.num_kv_heads, positions_, layer.value_dim}, layer.value_bytes() * positions_);
        }
      }
    }
    return safetensors_header_text(header);
  }

  [[nodiscard]] nlohmann::ordered_json metadata() const {
    const RecordingHeader& header = recording_.header();
    return {{"model", meta_name(recording_.meta(), "model")},
            {"model_sha256", to_hex(header.model_sha256)},
            {"device", meta_name(recording_.meta(), "device")},
            {"dtype", dtype_summary(header.geometry)},
            {"step", std::to_string(step_)},
            {"prompt_length", std::to_string(header.prompt_length)},
            {"uuid", to_string(header.uuid)}};
  }

  // The tensors of this element size. Layers with two sizes are read twice.
  void write_layers(WritableFile& file, std::size_t size) const {
    std::vector<std::byte> key;
    std::vector<std::byte> value;
    for (std::uint32_t i = 0; i < recording_.geometry().num_layers(); ++i) {
      const LayerGeometry& layer = recording_.geometry().layer(i);
      const bool has_key = element_size(layer.key_dtype) == size;
      const bool has_value = element_size(layer.value_dtype) == size;
      if (!has_key && !has_value) continue;
      key.resize(layer.key_bytes() * positions_);
      value.resize(layer.value_bytes() * positions_);
      recording_.read_layer(i, positions_, key, value);
      if (has_key) file.append(key);
      if (has_value) file.append(value);
    }
  }

  const Recording& recording_;
  std::int64_t step_;
  std::uint64_t positions_;
  std::vector<std::int64_t> tokens_;
};

}  // namespace

void write_safetensors(const Recording& recording, std::int64_t step, WritableFile& file) {
  Export(recording, step).write_to(file);
}

void write_safetensors(const Recording& recording, std::int64_t step,
                       const std::filesystem::path& target, FileSystem* file_system) {
  FileSystem& files = file_system != nullptr ? *file_system : posix_file_system();
  const Export content(recording, step);
  std::filesystem::path partial = target;
  partial += kPartialSuffix;
  if (target.has_parent_path()) files.create_directories(target.parent_path());
  files.remove(partial);
  try {
    const std::unique_ptr<WritableFile> file = files.create(partial);
    content.write_to(*file);
    file->close();
    files.rename(partial, target);
  } catch (...) {
    try {
      files.remove(partial);
    } catch (const Error&) {
      // The first failure is the one to report.
    }
    throw;
  }
}

}  // namespace kvtool::format
