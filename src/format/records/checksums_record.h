// CHECKSUMS: a checksum for each layer's K and V apart, so that damage can be
// told to a layer. docs/format.md, "Checksums of layers".
//
// A column is one layer's K or V; layer i has the columns 2i (K) and 2i + 1 (V).
// Its checksum over a group of steps is that of its rows' checksums, one behind the other.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "format/checksum.h"
#include "kvtool/format/geometry.h"

namespace kvtool::format {

inline constexpr std::uint64_t kChecksumGroupSteps = 64;

// Payload: the fixed part, the columns of the states, the columns of each group.
inline constexpr std::uint64_t kChecksumsFixedBytes = 16;
[[nodiscard]] std::uint64_t checksum_columns_bytes(const Geometry& geometry);
// Where the columns of a group start inside the payload.
[[nodiscard]] std::uint64_t checksum_group_offset(const Geometry& geometry, std::uint64_t group);
[[nodiscard]] std::uint64_t checksum_groups(std::uint64_t steps);

// What is wrong with the fixed part, in words; empty when nothing is. `groups` are expected.
[[nodiscard]] std::string checksums_problem(const Geometry& geometry,
                                            std::span<const std::byte> fixed,
                                            std::uint64_t payload_bytes, std::uint64_t groups);

// Checksums of one group's columns, row by row. Rows of a step come in any order.
class GroupColumns {
 public:
  explicit GroupColumns(const Geometry& geometry);

  void set_row(std::uint64_t step_in_group, std::size_t column, std::uint64_t row_checksum) {
    rows_[column * kChecksumGroupSteps + step_in_group] = row_checksum;
  }
  // All rows of one step from its delta.
  void add_step(const Geometry& geometry, std::uint64_t step_in_group,
                std::span<const std::byte> delta);
  // Of the first `steps` rows of one column.
  [[nodiscard]] std::uint64_t column(std::size_t column, std::uint64_t steps) const;

 private:
  std::vector<std::uint64_t> rows_;  // [column][kChecksumGroupSteps]
};

// Collects the payload while a recording is written. add_step() allocates
// nothing until the groups outgrow a megabyte, then once per doubling.
class ChecksumsBuilder {
 public:
  explicit ChecksumsBuilder(const Geometry& geometry);

  void set_state(std::uint32_t layer, std::uint64_t key_checksum, std::uint64_t value_checksum);
  void add_step(const Geometry& geometry, std::span<const std::byte> delta);
  // Ends the last group; the builder is used up.
  [[nodiscard]] std::vector<std::byte> finish();

 private:
  void close_group();

  GroupColumns group_;
  std::size_t columns_;
  std::uint64_t steps_in_group_ = 0;
  std::vector<std::uint64_t> states_;
  std::vector<std::uint64_t> groups_;
};

}  // namespace kvtool::format
