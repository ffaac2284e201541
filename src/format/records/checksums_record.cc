#include "checksums_record.h"

#include <algorithm>

#include "format/bytes.h"

namespace kvtool::format {
namespace {

constexpr std::size_t kReservedBytes = 1u << 20;

}  // namespace

std::uint64_t checksum_columns_bytes(const Geometry& geometry) {
  return std::uint64_t{2} * sizeof(std::uint64_t) * geometry.num_layers();
}

std::uint64_t checksum_group_offset(const Geometry& geometry, std::uint64_t group) {
  return kChecksumsFixedBytes + checksum_columns_bytes(geometry) * (1 + group);
}

std::uint64_t checksum_groups(std::uint64_t steps) {
  return (steps + kChecksumGroupSteps - 1) / kChecksumGroupSteps;
}

std::string checksums_problem(const Geometry& geometry, std::span<const std::byte> fixed,
                              std::uint64_t payload_bytes, std::uint64_t groups) {
  if (fixed.size() < kChecksumsFixedBytes || load<std::uint32_t>(fixed, 0) != kChecksumGroupSteps ||
      load<std::uint64_t>(fixed, 8) != groups ||
      payload_bytes != checksum_group_offset(geometry, groups)) {
    return "its checksums are not those of this recording's layers and steps";
  }
  return "";
}

GroupColumns::GroupColumns(const Geometry& geometry)
    : rows_(2 * geometry.num_layers() * kChecksumGroupSteps) {}

void GroupColumns::add_step(const Geometry& geometry, std::uint64_t step_in_group,
                            std::span<const std::byte> delta) {
  for (std::size_t i = 0; i < geometry.num_layers(); ++i) {
    const LayerGeometry& layer = geometry.layer(i);
    const RowOffset& row = geometry.row_offset(i);
    set_row(step_in_group, 2 * i, checksum(delta.subspan(row.key, layer.key_bytes())));
    set_row(step_in_group, 2 * i + 1, checksum(delta.subspan(row.value, layer.value_bytes())));
  }
}

std::uint64_t GroupColumns::column(std::size_t column, std::uint64_t steps) const {
  return checksum(std::as_bytes(std::span(rows_).subspan(column * kChecksumGroupSteps, steps)));
}

ChecksumsBuilder::ChecksumsBuilder(const Geometry& geometry)
    : group_(geometry), columns_(2 * geometry.num_layers()), states_(columns_) {
  groups_.reserve(std::max(columns_, kReservedBytes / sizeof(std::uint64_t)));
}

void ChecksumsBuilder::set_state(std::uint32_t layer, std::uint64_t key_checksum,
                                 std::uint64_t value_checksum) {
  states_[2 * std::size_t{layer}] = key_checksum;
  states_[2 * std::size_t{layer} + 1] = value_checksum;
}

void ChecksumsBuilder::add_step(const Geometry& geometry, std::span<const std::byte> delta) {
  group_.add_step(geometry, steps_in_group_, delta);
  if (++steps_in_group_ == kChecksumGroupSteps) close_group();
}

void ChecksumsBuilder::close_group() {
  for (std::size_t column = 0; column < columns_; ++column) {
    groups_.push_back(group_.column(column, steps_in_group_));
  }
  steps_in_group_ = 0;
}

std::vector<std::byte> ChecksumsBuilder::finish() {
  if (steps_in_group_ > 0) close_group();
  std::vector<std::byte> payload(kChecksumsFixedBytes +
                                 (states_.size() + groups_.size()) * sizeof(std::uint64_t));
  const std::span<std::byte> to(payload);
  store(to, 0, static_cast<std::uint32_t>(kChecksumGroupSteps));
  store(to, 8, std::uint64_t{groups_.size() / columns_});
  copy_bytes(std::as_bytes(std::span(states_)), to.subspan(kChecksumsFixedBytes));
  copy_bytes(std::as_bytes(std::span(groups_)),
             to.subspan(kChecksumsFixedBytes + states_.size() * sizeof(std::uint64_t)));
  return payload;
}

}  // namespace kvtool::format
