#include "rebuilt_cache.h"

#include <cstring>
#include <string>

#include "kvtool/base/error.h"

namespace kvtool::run {

RebuiltCache::RebuiltCache(const format::Geometry& geometry, std::uint64_t capacity)
    : capacity_(capacity) {
  const auto add = [&](std::uint64_t delta_offset, std::uint64_t heads, std::uint64_t row_bytes) {
    blocks_.push_back(
        {delta_offset, heads, row_bytes, std::vector<std::byte>(heads * capacity * row_bytes)});
  };
  for (std::size_t i = 0; i < geometry.num_layers(); ++i) {
    const format::LayerGeometry& layer = geometry.layer(i);
    const format::RowOffset& row = geometry.row_offset(i);
    add(row.key, layer.num_kv_heads, layer.key_bytes() / layer.num_kv_heads);
    add(row.value, layer.num_kv_heads, layer.value_bytes() / layer.num_kv_heads);
  }
}

void RebuiltCache::load_prompt(const format::Recording& recording) {
  positions_ = recording.header().prompt_length;
  std::vector<std::byte> key;
  std::vector<std::byte> value;
  for (std::uint32_t layer = 0; layer * 2 < blocks_.size(); ++layer) {
    Block& keys = blocks_[layer * 2];
    Block& values = blocks_[layer * 2 + 1];
    key.resize(keys.heads * positions_ * keys.row_bytes);
    value.resize(values.heads * positions_ * values.row_bytes);
    recording.read_layer(layer, positions_, key, value);
    place(keys, key, positions_);
    place(values, value, positions_);
  }
}

// state: [heads, positions, dim].
void RebuiltCache::place(Block& block, std::span<const std::byte> state,
                         std::uint64_t positions) const {
  const std::uint64_t length = positions * block.row_bytes;
  for (std::uint64_t head = 0; head < block.heads; ++head) {
    std::memcpy(block.bytes.data() + head * capacity_ * block.row_bytes,
                state.data() + head * length, length);
  }
}

void RebuiltCache::append(std::span<const std::byte> delta) {
  if (positions_ == capacity_) throw_misuse("the rebuilt cache is full");
  for (Block& block : blocks_) {
    for (std::uint64_t head = 0; head < block.heads; ++head) {
      std::memcpy(block.bytes.data() + (head * capacity_ + positions_) * block.row_bytes,
                  delta.data() + block.delta_offset + head * block.row_bytes, block.row_bytes);
    }
  }
  ++positions_;
}

bool RebuiltCache::equals(const Block& block, std::span<const std::byte> state) const {
  const std::uint64_t length = positions_ * block.row_bytes;
  for (std::uint64_t head = 0; head < block.heads; ++head) {
    if (std::memcmp(block.bytes.data() + head * capacity_ * block.row_bytes,
                    state.data() + head * length, length) != 0) {
      return false;
    }
  }
  return true;
}

void RebuiltCache::check_against(const format::Recording& recording) const {
  std::vector<std::byte> key;
  std::vector<std::byte> value;
  for (std::uint32_t layer = 0; layer * 2 < blocks_.size(); ++layer) {
    const Block& keys = blocks_[layer * 2];
    const Block& values = blocks_[layer * 2 + 1];
    key.resize(keys.heads * positions_ * keys.row_bytes);
    value.resize(values.heads * positions_ * values.row_bytes);
    recording.read_layer(layer, positions_, key, value);
    if (equals(keys, key) && equals(values, value)) continue;
    throw_corrupt(recording.path().string() + ": layer " + std::to_string(layer) +
                  " of the cache rebuilt from single steps differs from the state that the "
                  "reader returns for " +
                  std::to_string(positions_) + " positions");
  }
}

}  // namespace kvtool::run
