// Writes the files from which the targets start:
//
//   kvtool_fuzz_seeds DIR
//
// DIR/recording and DIR/safetensors get recordings of every save mode, whole and cut;
// DIR/packed gets them packed, DIR/json what META may be.
#include <cstdio>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "format/sample.h"
#include "kvtool/base/error.h"
#include "kvtool/base/file.h"
#include "kvtool/format/pack.h"

namespace {

using namespace kvtool;
namespace fs = std::filesystem;

constexpr std::string_view kMeta =
    R"({"device": {"label": "CPU"}, "a": [1, -2, 2.5e3, null, true, "\u00e9\ud83d\ude00"],)"
    R"( "b": {"c": {"d": [[[]], {}]}}})";

format::Bytes bytes_of(std::string_view text) {
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

void put(const fs::path& folder, const std::string& name, const format::Bytes& bytes) {
  fs::create_directories(folder);
  write_output_file(folder / name, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
}

// The file, and one that ends early.
void put_both(const fs::path& folder, const std::string& name, const format::Bytes& bytes) {
  put(folder, name, bytes);
  const auto most = static_cast<std::ptrdiff_t>(bytes.size() * 2 / 3);
  put(folder, name + "_cut", {bytes.begin(), bytes.begin() + most});
}

// Few layers and small rows: the shorter an input, the more of them a second has.
format::RecordingHeader header_of(format::SaveMode mode, std::uint32_t layers) {
  format::RecordingHeader header = format::sample_header(mode);
  header.geometry = format::Geometry(std::vector<format::LayerGeometry>(
      layers, {DType::kFloat8E4M3, DType::kFloat8E5M2, 1, 2, 3}));
  return header;
}

void put_sample(const fs::path& root, const format::RecordingHeader& header, std::uint64_t steps) {
  format::MemoryFileSystem files;
  format::write_sample(files, "x.kvc", header, steps);
  const std::string name = std::string(format::save_mode_name(header.save_mode)) + "_" +
                           std::to_string(header.geometry.num_layers()) + "_" +
                           std::to_string(steps);
  put_both(root / "recording", name, files.bytes("x.kvc"));
  put_both(root / "safetensors", name, files.bytes("x.kvc"));
  format::pack_recording("x.kvc", {.file_system = &files});
  put_both(root / "packed", name, files.bytes("x.kvc"));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: kvtool_fuzz_seeds DIR\n");
    return 2;
  }
  try {
    for (const auto mode :
         {format::SaveMode::kDelta, format::SaveMode::kPrefillOnly, format::SaveMode::kFinalOnly}) {
      put_sample(argv[1], format::sample_header(mode), 2);
      put_sample(argv[1], format::extended_header(mode), 2);
      put_sample(argv[1], header_of(mode, 1), 0);
      // More than one group of checksums.
      put_sample(argv[1], header_of(mode, 3), 70);
    }
    put(fs::path(argv[1]) / "json", "meta", bytes_of(kMeta));
  } catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return static_cast<int>(error.code());
  }
  return 0;
}
