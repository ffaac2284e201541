// Asymmetric quantization of K and V in groups, 2, 4 or 8 bits a number, packed: how the policy
// "kivi" keeps what is no longer recent (docs/caches.md has formula and source).
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <vector>

namespace kvtool::engine {

// Which numbers share a scale: those of one channel at consecutive positions (K, whose outliers
// are channels), or consecutive channels of one position (V).
enum class GroupAxis : std::uint8_t { kPositions, kChannels };

// Where `positions` of [.., heads, positions, dim] are kept.
struct CodedGroups {
  at::Tensor codes;   // u8 [.., heads, positions, code_bytes()], of a position's channels
  at::Tensor scales;  // bf16 [.., heads, groups, dim] or [.., heads, positions, groups]
  at::Tensor zeros;   // i8, shaped like scales

  [[nodiscard]] std::uint64_t nbytes() const;
};

// Of each group with the least number m and the greatest M, in float32:
//
//     L = 2^bits - 1,  h = 2^(bits - 1)
//     s = max((M - m) / L, |m + M| / 250), rounded up to bfloat16
//     z = round(m / s), in [-127 - h, 127 - h]
//     q = round(x / s) - z, in [0, L]; 0 where s is 0
//     x' = (q + z) s, rounded to the type of the rows
//
// so that |x' - x| is at most s / 2 and the rounding of x'. q takes `bits`, z + h a byte, s two.
// A group with a number that is not finite is not finite afterwards.
class GroupCodec {
 public:
  // bits: 2, 4 or 8. group: numbers that share a scale, at least 1; the last of kChannels may be
  // smaller.
  GroupCodec(GroupAxis axis, std::int64_t bits, std::int64_t group)
      : axis_(axis), bits_(bits), group_(group) {}

  [[nodiscard]] std::int64_t code_bytes(std::int64_t dim) const { return (dim * bits_ + 7) / 8; }

  // Room for `positions`, of kPositions a multiple of the group, for `leading` heads and
  // everything before them.
  [[nodiscard]] CodedGroups allocate(std::vector<std::int64_t> leading, std::int64_t positions,
                                     std::int64_t dim, at::Device device) const;
  // Positions [first, first + count) of one row, all dimensions but heads gone; of kPositions
  // whole groups.
  [[nodiscard]] CodedGroups part(const CodedGroups& coded, std::int64_t first,
                                 std::int64_t count) const;

  // rows [heads, positions, dim], floating point, whole groups.
  void encode(const at::Tensor& rows, const CodedGroups& coded) const;
  // Positions [first, first + rows.size(1)) of `coded`, [heads, ..], whole or not, into `rows`.
  void decode(const CodedGroups& coded, std::int64_t first, const at::Tensor& rows) const;
  // What decode() gives of what encode() made of `rows`.
  [[nodiscard]] at::Tensor round_trip(const at::Tensor& rows) const;
  // As decode(), on any device.
  void decode_by_tensors(const CodedGroups& coded, std::int64_t first,
                         const at::Tensor& rows) const;

 private:
  [[nodiscard]] at::Tensor grouped(const at::Tensor& rows, double fill) const;

  GroupAxis axis_;
  std::int64_t bits_;
  std::int64_t group_;
};

}  // namespace kvtool::engine
