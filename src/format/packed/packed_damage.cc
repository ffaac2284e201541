#include "packed_damage.h"

#include <algorithm>

namespace kvtool::format {
namespace {

bool overlaps(const PackedDamage::Columns& columns, std::uint64_t begin, std::uint64_t end) {
  begin = std::max(begin, columns.start) - columns.start;
  end = std::min(end, columns.start + columns.bytes) - columns.start;
  if (end - begin >= columns.row_bytes) return true;
  // Less than a row lies in two rows at most.
  for (const std::uint64_t row : {begin / columns.row_bytes, (end - 1) / columns.row_bytes}) {
    const std::uint64_t at = row * columns.row_bytes + columns.column;
    if (begin < at + columns.width && at < end) return true;
  }
  return false;
}

}  // namespace

void PackedDamage::add(Columns columns) {
  const std::lock_guard lock(mutex_);
  const std::pair key(columns.start, columns.column);
  columns_.try_emplace(key, std::move(columns));
}

std::optional<std::string> PackedDamage::find(std::uint64_t offset, std::uint64_t bytes) const {
  const std::lock_guard lock(mutex_);
  if (columns_.empty() || bytes == 0) return std::nullopt;
  const std::uint64_t end = offset + bytes;
  auto at = columns_.upper_bound({offset, UINT64_MAX});
  if (at != columns_.begin()) at = columns_.lower_bound({std::prev(at)->first.first, 0});
  for (; at != columns_.end() && at->first.first < end; ++at) {
    const Columns& columns = at->second;
    if (columns.start + columns.bytes <= offset) continue;
    if (overlaps(columns, offset, end)) return columns.problem;
  }
  return std::nullopt;
}

}  // namespace kvtool::format
