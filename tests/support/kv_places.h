// Where a recording keeps its K/V, found in the file by what its reader says that it is.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <span>
#include <string>
#include <vector>

#include "kvtool/format/reader.h"

namespace kvtool {

struct FilePart {
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
};

// K and V of the prompt's layers, or of the final state's, and the rows of every step, each
// once. Of a recording whose K/V does not repeat itself.
inline std::vector<FilePart> kv_places(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(file), {}};
  std::vector<FilePart> places;
  const auto find = [&](std::span<const std::byte> kv) {
    const auto found = std::search(bytes.begin(), bytes.end(), kv.begin(), kv.end(),
                                   [](char a, std::byte b) { return std::byte(a) == b; });
    ASSERT_NE(found, bytes.end()) << path;
    places.push_back({static_cast<std::uint64_t>(found - bytes.begin()), kv.size()});
  };
  const format::Recording recording = format::Recording::open(path);
  const bool final_only = recording.header().save_mode == format::SaveMode::kFinalOnly;
  const std::uint64_t positions =
      final_only ? recording.num_cached_positions() : recording.header().prompt_length;
  for (std::uint32_t layer = 0; layer < recording.geometry().num_layers(); ++layer) {
    const format::LayerGeometry& shape = recording.geometry().layer(layer);
    std::vector<std::byte> key(shape.key_bytes() * positions);
    std::vector<std::byte> value(shape.value_bytes() * positions);
    recording.read_layer(layer, positions, key, value);
    find(key);
    find(value);
  }
  std::vector<std::byte> delta(recording.geometry().delta_bytes());
  for (std::uint64_t step = 0;
       step < (recording.has_deltas() && !final_only ? recording.num_steps() : 0); ++step) {
    recording.read_delta(step, delta);
    find(delta);
  }
  return places;
}

}  // namespace kvtool
