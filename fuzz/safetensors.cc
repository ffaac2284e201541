// The export of a recording of any content: what is written must be a safetensors file.
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "format/bytes.h"
#include "format/memory_file_system.h"
#include "kvtool/format/reader.h"
#include "kvtool/format/safetensors.h"
#include "memory_budget.h"
#include "mutate.h"

namespace {

using namespace kvtool;
using nlohmann::json;

void require(bool right, const char* what) {
  if (right) return;
  std::fprintf(stderr, "not a safetensors file: %s\n", what);
  std::abort();
}

std::uint64_t bytes_per_element(const std::string& dtype) {
  if (dtype == "I64") return 8;
  if (dtype == "F32") return 4;
  if (dtype == "F16" || dtype == "BF16") return 2;
  require(dtype == "F8_E4M3" || dtype == "F8_E5M2", "unknown dtype");
  return 1;
}

// https://github.com/huggingface/safetensors#format
void check(const format::Bytes& file) {
  require(file.size() >= 8, "no header length");
  const auto header_bytes = format::load<std::uint64_t>(file, 0);
  require(header_bytes <= file.size() - 8, "header length");
  const auto* text = reinterpret_cast<const char*>(file.data()) + 8;
  const json header = json::parse(text, text + header_bytes);
  for (const auto& [key, value] : header.at("__metadata__").items()) {
    require(value.is_string(), "metadata");
  }
  std::uint64_t covered = 0;
  for (const auto& [name, tensor] : header.items()) {
    if (name == "__metadata__") continue;
    std::uint64_t bytes = bytes_per_element(tensor.at("dtype").get<std::string>());
    for (const auto& extent : tensor.at("shape")) bytes *= extent.get<std::uint64_t>();
    const auto begin = tensor.at("data_offsets").at(0).get<std::uint64_t>();
    const auto end = tensor.at("data_offsets").at(1).get<std::uint64_t>();
    require(begin <= end && end - begin == bytes, "length of a tensor");
    require(end <= file.size() - 8 - header_bytes, "tensor outside of the file");
    covered += bytes;
  }
  require(covered == file.size() - 8 - header_bytes, "bytes without a tensor");
}

void write(format::MemoryFileSystem& files, const format::Recording& recording, std::int64_t step) {
  try {
    format::write_safetensors(recording, step, "out.safetensors", &files);
  } catch (const Error&) {
    if (files.exists("out.safetensors")) std::abort();
    return;
  }
  check(files.bytes("out.safetensors"));
  files.remove("out.safetensors");
}

}  // namespace

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size,
                                               std::size_t max_size, unsigned seed) {
  return kvtool::fuzz::mutate_recording(data, size, max_size, seed);
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto* bytes = reinterpret_cast<const std::byte*>(data);
  // The file, the export, and one layer's K and V from two places.
  const kvtool::fuzz::MemoryBudget budget(size, 8);
  format::MemoryFileSystem files;
  files.put("x.kvc", {bytes, bytes + size});
  try {
    const auto recording = format::Recording::open("x.kvc", {.file_system = &files});
    const auto steps = static_cast<std::int64_t>(recording.num_steps());
    for (const std::int64_t step : {std::int64_t{-1}, steps / 2, steps - 1, steps}) {
      write(files, recording, step);
    }
  } catch (const Error&) {
  }
  return 0;
}
