// Where the policy "kivi" keeps K or V of one layer, once its positions are no longer recent: in
// groups, or as the model made them.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <optional>

#include "engine/cache/codecs/group_codec.h"
#include "engine/row_layout.h"

namespace kvtool::engine {

class SettledPart {
 public:
  // Room for `positions` of `rows` batch rows. No codec: as the model made them.
  SettledPart(std::optional<GroupCodec> codec, const RowLayout::Entry& entry, std::int64_t rows,
              std::int64_t positions, at::Device device);

  [[nodiscard]] bool is_coded() const { return codec_.has_value(); }
  // Takes positions from `first` on, of a batch row, in: [heads, positions, dim].
  void take_in(std::int64_t row, std::int64_t first, const at::Tensor& rows) const;
  // Gives them out again, into `rows` likewise.
  void give_out(std::int64_t row, std::int64_t first, const at::Tensor& rows) const;
  // What give_out() would give of `rows`, from a position that begins a group.
  [[nodiscard]] at::Tensor round_trip(const at::Tensor& rows) const;
  [[nodiscard]] std::uint64_t nbytes() const { return codec_ ? coded_.nbytes() : whole_.nbytes(); }

 private:
  [[nodiscard]] CodedGroups coded_of(std::int64_t row) const;

  std::optional<GroupCodec> codec_;
  CodedGroups coded_;  // [B, heads, ..]; with a codec
  at::Tensor whole_;   // [B, heads, positions, dim]; without
};

}  // namespace kvtool::engine
