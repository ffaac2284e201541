// How far K and V of the device under test are from the reference's.
// docs/metrics.md defines every figure.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "kvtool/analysis/co_moments.h"
#include "kvtool/analysis/ulp_histogram.h"
#include "kvtool/base/dtype.h"
#include "kvtool/format/geometry.h"

namespace kvtool::analysis {

enum class KvKind : std::uint8_t { kKey, kValue };
inline constexpr std::array<KvKind, 2> kKvKinds = {KvKind::kKey, KvKind::kValue};
// "key", "value".
[[nodiscard]] std::string_view kv_kind_name(KvKind kind);

// Error of any set of elements; sums add up over disjoint sets.
struct KvError {
  std::uint64_t elements = 0;
  std::uint64_t differing = 0;     // elements whose values' bit patterns differ
  std::uint64_t nonfinite = 0;     // pairs with NaN or Inf on either side, left out below
  double max_abs = 0.0;            // max |live - reference|
  double max_reference = 0.0;      // max |reference|
  double sum_squared_error = 0.0;  // float64 sums
  double sum_squared_reference = 0.0;
  double sum_error_reference = 0.0;  // sum (live - reference) * reference
  // sum of floor^2 * reference^2 with the reference dtype's rounding floor:
  // the squared error that rounding once to the storage type would leave.
  double sum_squared_floor = 0.0;
  CoMoments moments;  // of the finite pairs
  UlpHistogram ulps;

  [[nodiscard]] bool bitwise_equal() const { return differing == 0; }
  // sqrt(sum error^2 / sum reference^2); 0 when both are 0, infinity when only
  // the reference is.
  [[nodiscard]] double relative_l2() const;
  // max_abs / max_reference, with the same rule for zeros.
  [[nodiscard]] double relative_max() const;
  // <live, reference> / (|live| |reference|); 1 when both are 0, 0 when one is.
  [[nodiscard]] double cosine() const;
  // Pearson's correlation of live and reference; see CoMoments.
  [[nodiscard]] double pearson() const { return moments.pearson(); }
  // Least-squares factor of live on the reference, minus 1: a systematic scale,
  // in which rounding noise averages out. 0 when the reference is 0.
  [[nodiscard]] double scale_error() const;
  // 99th percentile of the distance in representable values of the reference's dtype.
  [[nodiscard]] double ulp_p99() const;
  // relative_l2 in units of the rounding floor; same rule for zeros.
  [[nodiscard]] double floor_ratio() const;
  void add(const KvError& other);
};

// 2^-(p+1) / sqrt(7): relative L2 of rounding once to `dtype`.
[[nodiscard]] double storage_rounding_floor(DType dtype);

// live.size() / element_size(live_dtype) == reference.size() / element_size(reference_dtype);
// Error kIncompatible otherwise. With different dtypes, values are compared:
// `differing` counts unequal values, and the distance is the one after rounding
// the live value to the reference's dtype.
[[nodiscard]] KvError compare_elements(DType live_dtype, std::span<const std::byte> live,
                                       DType reference_dtype, std::span<const std::byte> reference);
// As above into `error`, whose content is replaced and whose memory is reused:
// for many small rows.
void compare_elements(DType live_dtype, std::span<const std::byte> live, DType reference_dtype,
                      std::span<const std::byte> reference, KvError& error);

// Errors of a stretch of positions, for every layer, KV head and block of
// positions, K and V apart, and of every single row (one position of one layer).
// Positions and blocks count from the stretch's first position.
class KvProfile {
 public:
  KvProfile() = default;  // nothing measured
  // block_positions >= 1: positions of one block.
  KvProfile(std::vector<std::uint32_t> heads_per_layer, std::uint64_t block_positions);

  [[nodiscard]] bool measured() const { return positions_ > 0; }
  [[nodiscard]] std::size_t num_layers() const { return layers_.size(); }
  [[nodiscard]] std::uint32_t num_heads(std::size_t layer) const;
  [[nodiscard]] std::uint64_t block_positions() const { return block_positions_; }
  [[nodiscard]] std::uint64_t num_positions() const { return positions_; }
  [[nodiscard]] std::size_t num_blocks() const;

  [[nodiscard]] const KvError& cell(KvKind kind, std::size_t layer, std::uint32_t head,
                                    std::size_t block) const;
  // Pooled over what is not named.
  [[nodiscard]] KvError head(KvKind kind, std::size_t layer, std::uint32_t head) const;
  [[nodiscard]] KvError block(KvKind kind, std::size_t layer, std::size_t block) const;
  [[nodiscard]] KvError layer(KvKind kind, std::size_t layer) const;
  [[nodiscard]] KvError total(KvKind kind) const;
  [[nodiscard]] KvError total() const;

  // Relative L2 of one row (all heads of one layer at one position); in a pooled
  // profile the largest of all inputs. NaN where it was not measured or not finite.
  [[nodiscard]] float row_error(KvKind kind, std::size_t layer, std::uint64_t position) const;

  // Adds one head's row; positions may come in any order and extend the profile.
  void add(KvKind kind, std::size_t layer, std::uint32_t head, std::uint64_t position,
           const KvError& error);
  // Sets the error of a row whose heads have all been added.
  void set_row_error(KvKind kind, std::size_t layer, std::uint64_t position, double relative_l2);
  // Pools another input's profile of the same shape (Error kIncompatible
  // otherwise); an unmeasured one adds nothing, and takes over the other's shape.
  void add(const KvProfile& other);

 private:
  struct Layer {
    std::uint32_t heads = 0;
    // [kind][head + heads * block], grown block by block.
    std::array<std::vector<KvError>, 2> cells;
    std::array<std::vector<float>, 2> rows;  // [kind][position]
  };
  std::vector<Layer> layers_;
  std::uint64_t block_positions_ = 1;
  std::uint64_t positions_ = 0;
};

[[nodiscard]] std::vector<std::uint32_t> heads_per_layer(const format::Geometry& geometry);

// A block size that gives at most `max_blocks` blocks: a power of two, at least 16.
[[nodiscard]] std::uint64_t choose_block_positions(std::uint64_t longest,
                                                   std::uint64_t max_blocks = 32);

}  // namespace kvtool::analysis
