// The K/V cache that a replay works on, rebuilt from a recording without torch:
// [layer][K|V][head][position][dim], allocated once for all positions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kvtool/format/reader.h"

namespace kvtool::run {

class RebuiltCache {
 public:
  // Room for `capacity` positions; empty.
  RebuiltCache(const format::Geometry& geometry, std::uint64_t capacity);

  // Holds the prompt's K/V and nothing else.
  void load_prompt(const format::Recording& recording);
  // The next position's rows, in delta layout.
  void append(std::span<const std::byte> delta);
  // Error kCorrupt unless what it holds is the recording's state at that position.
  void check_against(const format::Recording& recording) const;

 private:
  // K or V of one layer.
  struct Block {
    std::uint64_t delta_offset = 0;  // of its row in a delta
    std::uint64_t heads = 0;
    std::uint64_t row_bytes = 0;  // of one head and position
    std::vector<std::byte> bytes;
  };
  void place(Block& block, std::span<const std::byte> state, std::uint64_t positions) const;
  [[nodiscard]] bool equals(const Block& block, std::span<const std::byte> state) const;

  std::vector<Block> blocks_;  // K of layer 0, V of layer 0, K of layer 1, ...
  std::uint64_t capacity_;
  std::uint64_t positions_ = 0;
};

}  // namespace kvtool::run
