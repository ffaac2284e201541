#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "kvtool/analysis/kv_error.h"
#include "kvtool/base/error.h"

namespace kvtool::analysis {
namespace {

std::size_t index_of(KvKind kind) { return static_cast<std::size_t>(kind); }

constexpr float kUnmeasured = std::numeric_limits<float>::quiet_NaN();

}  // namespace

KvProfile::KvProfile(std::vector<std::uint32_t> heads_per_layer, std::uint64_t block_positions)
    : layers_(heads_per_layer.size()), block_positions_(block_positions) {
  if (block_positions == 0) throw_misuse("a block of positions must hold at least 1");
  for (std::size_t i = 0; i < layers_.size(); ++i) layers_[i].heads = heads_per_layer[i];
}

std::uint32_t KvProfile::num_heads(std::size_t layer) const { return layers_.at(layer).heads; }

std::size_t KvProfile::num_blocks() const {
  return static_cast<std::size_t>((positions_ + block_positions_ - 1) / block_positions_);
}

const KvError& KvProfile::cell(KvKind kind, std::size_t layer, std::uint32_t head,
                               std::size_t block) const {
  static const KvError kNothing;
  const Layer& entry = layers_.at(layer);
  const std::vector<KvError>& cells = entry.cells[index_of(kind)];
  const std::size_t index = head + entry.heads * block;
  return head < entry.heads && index < cells.size() ? cells[index] : kNothing;
}

KvError KvProfile::head(KvKind kind, std::size_t layer, std::uint32_t head) const {
  KvError sum;
  for (std::size_t block = 0; block < num_blocks(); ++block)
    sum.add(cell(kind, layer, head, block));
  return sum;
}

KvError KvProfile::block(KvKind kind, std::size_t layer, std::size_t block) const {
  KvError sum;
  for (std::uint32_t head = 0; head < num_heads(layer); ++head) {
    sum.add(cell(kind, layer, head, block));
  }
  return sum;
}

KvError KvProfile::layer(KvKind kind, std::size_t layer) const {
  KvError sum;
  for (const KvError& cell : layers_.at(layer).cells[index_of(kind)]) sum.add(cell);
  return sum;
}

KvError KvProfile::total(KvKind kind) const {
  KvError sum;
  for (const Layer& layer : layers_) {
    for (const KvError& cell : layer.cells[index_of(kind)]) sum.add(cell);
  }
  return sum;
}

KvError KvProfile::total() const {
  KvError sum;
  for (const KvKind kind : kKvKinds) sum.add(total(kind));
  return sum;
}

float KvProfile::row_error(KvKind kind, std::size_t layer, std::uint64_t position) const {
  const std::vector<float>& rows = layers_.at(layer).rows[index_of(kind)];
  return position < rows.size() ? rows[position] : kUnmeasured;
}

void KvProfile::add(KvKind kind, std::size_t layer, std::uint32_t head, std::uint64_t position,
                    const KvError& error) {
  Layer& entry = layers_.at(layer);
  if (head >= entry.heads) {
    throw_misuse("layer " + std::to_string(layer) + " has " + std::to_string(entry.heads) +
                 " KV heads, there is no head " + std::to_string(head));
  }
  const std::size_t block = static_cast<std::size_t>(position / block_positions_);
  std::vector<KvError>& cells = entry.cells[index_of(kind)];
  if (cells.size() < entry.heads * (block + 1)) cells.resize(entry.heads * (block + 1));
  cells[head + entry.heads * block].add(error);
  positions_ = std::max(positions_, position + 1);
}

void KvProfile::set_row_error(KvKind kind, std::size_t layer, std::uint64_t position,
                              double relative_l2) {
  std::vector<float>& rows = layers_.at(layer).rows[index_of(kind)];
  if (rows.size() <= position) rows.resize(static_cast<std::size_t>(position) + 1, kUnmeasured);
  rows[position] = static_cast<float>(relative_l2);
  positions_ = std::max(positions_, position + 1);
}

void KvProfile::add(const KvProfile& other) {
  if (!other.measured()) {
    if (layers_.empty()) *this = other;
    return;
  }
  if (!measured()) {
    *this = other;
    return;
  }
  const bool same_heads =
      std::equal(layers_.begin(), layers_.end(), other.layers_.begin(), other.layers_.end(),
                 [](const Layer& a, const Layer& b) { return a.heads == b.heads; });
  if (!same_heads || block_positions_ != other.block_positions_) {
    throw_incompatible("K/V errors of models or blocks of different shape cannot be pooled (" +
                       std::to_string(num_layers()) + " layers in blocks of " +
                       std::to_string(block_positions_) + " positions, " +
                       std::to_string(other.num_layers()) + " layers in blocks of " +
                       std::to_string(other.block_positions_) + ")");
  }
  positions_ = std::max(positions_, other.positions_);
  for (std::size_t layer = 0; layer < layers_.size(); ++layer) {
    for (const KvKind kind : kKvKinds) {
      const std::vector<KvError>& from = other.layers_[layer].cells[index_of(kind)];
      std::vector<KvError>& cells = layers_[layer].cells[index_of(kind)];
      if (cells.size() < from.size()) cells.resize(from.size());
      for (std::size_t i = 0; i < from.size(); ++i) cells[i].add(from[i]);

      const std::vector<float>& from_rows = other.layers_[layer].rows[index_of(kind)];
      std::vector<float>& rows = layers_[layer].rows[index_of(kind)];
      if (rows.size() < from_rows.size()) rows.resize(from_rows.size(), kUnmeasured);
      // fmax takes the number where the other side was not measured.
      for (std::size_t i = 0; i < from_rows.size(); ++i) {
        rows[i] = std::fmax(rows[i], from_rows[i]);
      }
    }
  }
}

std::vector<std::uint32_t> heads_per_layer(const format::Geometry& geometry) {
  std::vector<std::uint32_t> heads;
  heads.reserve(geometry.num_layers());
  for (const format::LayerGeometry& layer : geometry.layers()) heads.push_back(layer.num_kv_heads);
  return heads;
}

std::uint64_t choose_block_positions(std::uint64_t longest, std::uint64_t max_blocks) {
  std::uint64_t size = 16;
  while ((longest + size - 1) / size > std::max<std::uint64_t>(max_blocks, 1)) size *= 2;
  return size;
}

}  // namespace kvtool::analysis
