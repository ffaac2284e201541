// The shape of one recording's KV cache, the same for every record of a file.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kvtool/base/dtype.h"

namespace kvtool::format {

// Caps against hostile files (docs/format.md, "Limits").
inline constexpr std::uint32_t kMaxLayers = 4096;
inline constexpr std::uint32_t kMaxHeads = 4096;
inline constexpr std::uint32_t kMaxHeadDim = 65536;
inline constexpr std::uint32_t kMaxTopK = 1024;
inline constexpr std::uint64_t kRowAlignment = 16;

// What a coded row is made of. The values are those of the file (docs/format.md, "Coded rows").
enum class CodeType : std::uint8_t {
  kFloat8E4M3 = 4,
  kFloat8E5M2 = 5,
  kInt8 = 6,
  kUInt8 = 7,
  kInt4 = 8,  // two per byte, the first in the low half; a row starts at a byte
  kUInt4 = 9,
};
// "int8", "uint4", "float8_e4m3fn".
[[nodiscard]] std::string_view code_type_name(CodeType type);

// A row of one head whose elements are codes with scales behind them: x = code * scale + offset.
struct RowCode {
  CodeType type = CodeType::kInt8;
  DType scale_dtype = DType::kFloat32;  // float32, float16 or bfloat16; of the offsets too
  bool has_offsets = false;
  std::uint32_t group_channels = 0;   // neighbouring channels that share a scale; 1 to dim
  std::uint32_t group_positions = 1;  // positions that share scales; 0: all. Each row has a copy

  friend bool operator==(const RowCode&, const RowCode&) = default;
};

// Bytes of one head's row: the codes, zeros up to a multiple of the scale's size, a scale for
// each group of channels, then an offset for each.
[[nodiscard]] std::uint64_t code_bytes(CodeType type, std::uint32_t dim);
[[nodiscard]] std::uint64_t coded_row_bytes(const RowCode& code, std::uint32_t dim);

// One layer's K and V. A position holds key [num_kv_heads, key_dim] and value
// [num_kv_heads, value_dim].
struct LayerGeometry {
  DType key_dtype = DType::kFloat32;
  DType value_dtype = DType::kFloat32;
  std::uint32_t num_kv_heads = 0;
  std::uint32_t key_dim = 0;
  std::uint32_t value_dim = 0;
  // Where rows are coded; the dtype above is then what they decode to.
  std::optional<RowCode> key_code = std::nullopt;
  std::optional<RowCode> value_code = std::nullopt;

  // Elements stand as plain numbers of key_dtype and value_dtype.
  [[nodiscard]] bool is_plain() const { return !key_code && !value_code; }

  // Bytes of one position (all heads).
  [[nodiscard]] std::uint64_t key_bytes() const;
  [[nodiscard]] std::uint64_t value_bytes() const;

  friend bool operator==(const LayerGeometry&, const LayerGeometry&) = default;
};

// Where a layer's K and V stand inside a delta, in bytes from its start; both
// aligned to kRowAlignment.
struct RowOffset {
  std::uint64_t key = 0;
  std::uint64_t value = 0;
};

// Throws Error kCorrupt when a cap is exceeded or a size overflows.
class Geometry {
 public:
  Geometry() = default;
  explicit Geometry(std::vector<LayerGeometry> layers);

  [[nodiscard]] const std::vector<LayerGeometry>& layers() const { return layers_; }
  [[nodiscard]] std::size_t num_layers() const { return layers_.size(); }
  [[nodiscard]] const LayerGeometry& layer(std::size_t index) const { return layers_.at(index); }
  [[nodiscard]] const RowOffset& row_offset(std::size_t layer) const { return offsets_.at(layer); }

  // Bytes of one delta: the K and V rows of one position in all layers,
  // `[layer][K|V][head][dim]`, each entry at its row_offset, the gaps zero.
  // A multiple of kRowAlignment.
  [[nodiscard]] std::uint64_t delta_bytes() const { return delta_bytes_; }
  // Bytes of K and V of one position without alignment gaps.
  [[nodiscard]] std::uint64_t position_bytes() const { return position_bytes_; }

  friend bool operator==(const Geometry& a, const Geometry& b) { return a.layers_ == b.layers_; }

 private:
  std::vector<LayerGeometry> layers_;
  std::vector<RowOffset> offsets_;
  std::uint64_t delta_bytes_ = 0;
  std::uint64_t position_bytes_ = 0;
};

// Error kIncompatible that names the first coded layer, for readers that know plain numbers
// only: "SUBJECT: layer 3 holds K as int8 codes with scales, which WHO cannot read".
void require_plain(const Geometry& geometry, std::string_view subject, std::string_view who);

// Empty when equal, else the first difference in words ("layer 3: 4 KV heads against 8").
[[nodiscard]] std::string describe_difference(const Geometry& a, const Geometry& b);

}  // namespace kvtool::format
