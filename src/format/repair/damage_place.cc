#include "damage_place.h"

#include <algorithm>
#include <iterator>

#include "format/bytes.h"
#include "format/layout.h"
#include "format/records/block_reader.h"
#include "format/records/checksums_record.h"
#include "kvtool/base/error.h"

namespace kvtool::format {
namespace {

std::string range_text(std::uint64_t first, std::uint64_t last) {
  return first == last ? std::to_string(first) : std::to_string(first) + "-" + std::to_string(last);
}

class Locator {
 public:
  Locator(const FileScan& scan, const ScanResult& result)
      : scan_(scan),
        result_(result),
        header_(scan.header()),
        geometry_(header_.geometry),
        block_(make_block()),
        reader_(scan.source(), block_) {
    find_checksums();
  }

  std::vector<Damage> locate() {
    std::vector<Damage> damages;
    for (auto bad = result_.bad.begin(); bad != result_.bad.end();) {
      if (bad->record.type != RecordType::kStep) {
        damages.push_back(locate_other(*bad++));
        continue;
      }
      const std::uint64_t group = bad->record.index / kChecksumGroupSteps;
      const auto end = std::find_if(bad, result_.bad.end(), [&](const BadRecord& each) {
        return each.record.type != RecordType::kStep ||
               each.record.index / kChecksumGroupSteps != group;
      });
      for (Damage& damage : locate_steps(group, bad, end)) append(damages, std::move(damage));
      bad = end;
    }
    return damages;
  }

 private:
  using Iterator = std::vector<BadRecord>::const_iterator;

  void find_checksums();
  [[nodiscard]] static Damage describe(const BadRecord& bad);
  [[nodiscard]] Damage locate_other(const BadRecord& bad);
  [[nodiscard]] std::vector<Damage> locate_steps(std::uint64_t group, Iterator begin, Iterator end);
  [[nodiscard]] std::vector<DamagedColumn> damaged_columns(std::uint64_t group);
  void locate_state(const BadRecord& bad, Damage& damage);
  [[nodiscard]] std::vector<DamagedColumn> unread_columns(std::uint64_t step) const;
  [[nodiscard]] std::uint64_t stored(std::uint64_t offset, std::size_t column);
  void append(std::vector<Damage>& damages, Damage damage) const;
  // Its columns are known for each step alone.
  [[nodiscard]] bool is_unread(const Damage& damage) const {
    return scan_.unpacking_problem(damage.offset_bytes, damage.length_bytes).has_value();
  }

  const FileScan& scan_;
  const ScanResult& result_;
  const RecordingHeader& header_;
  const Geometry& geometry_;
  ReadBlock block_;
  BlockReader reader_;
  std::optional<std::uint64_t> checksums_;  // where the payload starts
};

void Locator::find_checksums() {
  const RecordHeader* record = result_.find(RecordType::kChecksums);
  if (record == nullptr || record->stored_bytes < kChecksumsFixedBytes) return;
  const std::uint64_t start = record->offset + kRecordHeaderBytes;
  const std::uint64_t groups =
      header_.save_mode == SaveMode::kDelta ? checksum_groups(result_.num_steps) : 0;
  const auto fixed = reader_.all(start, kChecksumsFixedBytes);
  if (checksums_problem(geometry_, fixed, record->stored_bytes, groups).empty()) {
    checksums_ = start;
  }
}

// Of one column among the columns at `offset`.
std::uint64_t Locator::stored(std::uint64_t offset, std::size_t column) {
  std::array<std::byte, 8> bytes;
  scan_.source().read(offset + column * bytes.size(), bytes);
  return load<std::uint64_t>(bytes, 0);
}

Damage Locator::describe(const BadRecord& bad) {
  Damage damage;
  damage.offset_bytes = bad.record.offset;
  damage.length_bytes = bad.bytes;
  damage.record = bad.record.type == RecordType{0} ? "unknown record" : describe_record(bad.record);
  damage.problem = bad.problem;
  return damage;
}

Damage Locator::locate_other(const BadRecord& bad) {
  Damage damage = describe(bad);
  damage.statistics = bad.record.type == RecordType::kPrefillEnd;
  const bool state =
      bad.record.type == RecordType::kPrefill || bad.record.type == RecordType::kFinal;
  if (!state || bad.record.index >= geometry_.num_layers()) return damage;
  damage.first_position = 0;
  damage.last_position =
      header_.prompt_length + (bad.record.type == RecordType::kFinal ? result_.num_steps : 0) - 1;
  try {
    locate_state(bad, damage);
  } catch (const Error&) {
    // What cannot be read twice stays unlocated; the damage itself is reported.
    damage.columns.clear();
  }
  return damage;
}

void Locator::locate_state(const BadRecord& bad, Damage& damage) {
  const auto layer = static_cast<std::uint32_t>(bad.record.index);
  const auto layout = state_layout(geometry_.layer(layer), *damage.last_position + 1);
  if (!layout || record_bytes(layout->payload_bytes) != bad.bytes) return;
  const std::uint64_t start = bad.record.offset + kRecordHeaderBytes;
  if (scan_.unpacking_problem(bad.record.offset, bad.bytes)) {
    if (scan_.unpacking_problem(start, layout->key_bytes)) damage.columns.push_back({layer, false});
    if (scan_.unpacking_problem(start + layout->value_offset, layout->value_bytes)) {
      damage.columns.push_back({layer, true});
    }
    damage.located = true;
    return;
  }
  if (!checksums_) return;
  const std::uint64_t columns = *checksums_ + kChecksumsFixedBytes;
  if (reader_.checksum_of(start, layout->key_bytes) != stored(columns, 2 * std::size_t{layer})) {
    damage.columns.push_back({layer, false});
  }
  if (reader_.checksum_of(start + layout->value_offset, layout->value_bytes) !=
      stored(columns, 2 * std::size_t{layer} + 1)) {
    damage.columns.push_back({layer, true});
  }
  damage.located = true;
}

// K and V of one step that cannot be unpacked. What can be has a checksum of its own, so
// that CHECKSUMS are not needed.
std::vector<DamagedColumn> Locator::unread_columns(std::uint64_t step) const {
  const std::uint64_t delta = result_.first_step + step * step_stride_bytes(header_) +
                              kRecordHeaderBytes + stats_block_bytes(header_);
  std::vector<DamagedColumn> columns;
  for (std::uint32_t i = 0; i < geometry_.num_layers(); ++i) {
    const LayerGeometry& layer = geometry_.layer(i);
    const RowOffset& row = geometry_.row_offset(i);
    if (scan_.unpacking_problem(delta + row.key, layer.key_bytes())) columns.push_back({i, false});
    if (scan_.unpacking_problem(delta + row.value, layer.value_bytes())) {
      columns.push_back({i, true});
    }
  }
  return columns;
}

// Columns of the group that are not what they were when they were recorded.
std::vector<DamagedColumn> Locator::damaged_columns(std::uint64_t group) {
  const std::uint64_t first = group * kChecksumGroupSteps;
  const std::uint64_t steps = std::min(kChecksumGroupSteps, result_.num_steps - first);
  const std::uint64_t stats_bytes = stats_block_bytes(header_);
  GroupColumns columns(geometry_);
  for (std::uint64_t i = 0; i < steps; ++i) {
    const std::uint64_t delta = result_.first_step + (first + i) * step_stride_bytes(header_) +
                                kRecordHeaderBytes + stats_bytes;
    for (std::size_t layer = 0; layer < geometry_.num_layers(); ++layer) {
      const RowOffset& row = geometry_.row_offset(layer);
      columns.set_row(i, 2 * layer,
                      reader_.checksum_of(delta + row.key, geometry_.layer(layer).key_bytes()));
      columns.set_row(i, 2 * layer + 1,
                      reader_.checksum_of(delta + row.value, geometry_.layer(layer).value_bytes()));
    }
  }
  const std::uint64_t expected = *checksums_ + checksum_group_offset(geometry_, group);
  std::vector<DamagedColumn> damaged;
  for (std::size_t column = 0; column < 2 * geometry_.num_layers(); ++column) {
    if (columns.column(column, steps) == stored(expected, column)) continue;
    damaged.push_back({static_cast<std::uint32_t>(column / 2), column % 2 == 1});
  }
  return damaged;
}

std::vector<Damage> Locator::locate_steps(std::uint64_t group, Iterator begin, Iterator end) {
  const bool delta = header_.save_mode == SaveMode::kDelta;
  const auto unread = [&](const BadRecord& bad) {
    return scan_.unpacking_problem(bad.record.offset, bad.bytes).has_value();
  };
  std::vector<DamagedColumn> columns;
  bool located = !delta;
  try {
    // A step that is out of order may have any number.
    if (delta && checksums_ && group < checksum_groups(result_.num_steps) &&
        !std::all_of(begin, end, unread)) {
      columns = damaged_columns(group);
      located = true;
    }
  } catch (const Error&) {
    // As in locate_other().
  }
  std::vector<Damage> damages;
  for (; begin != end; ++begin) {
    Damage damage = describe(*begin);
    const std::uint64_t step = begin->record.index;
    damage.first_step = damage.last_step = step;
    if (delta) damage.first_position = damage.last_position = header_.prompt_length + step;
    damage.located = located;
    damage.columns = columns;
    if (delta && unread(*begin)) {
      damage.columns = unread_columns(step);
      damage.located = true;
    }
    try {
      const auto block =
          reader_.all(begin->record.offset + kRecordHeaderBytes, stats_block_bytes(header_));
      damage.statistics =
          !decode_stats(header_, block) ||
          scan_.unpacking_problem(begin->record.offset + kRecordHeaderBytes, block.size());
    } catch (const Error&) {
      damage.statistics = true;
    }
    damages.push_back(std::move(damage));
  }
  for (Damage& damage : damages) {
    damage.shared = damages.size() > 1 && !columns.empty() && !is_unread(damage);
  }
  return damages;
}

// Steps in a row with the same damage become one entry.
void Locator::append(std::vector<Damage>& damages, Damage damage) const {
  if (!damages.empty()) {
    Damage& last = damages.back();
    const bool joins = last.last_step && *last.last_step + 1 == *damage.first_step &&
                       last.problem == damage.problem && last.columns == damage.columns &&
                       last.located == damage.located && last.statistics == damage.statistics;
    if (joins) {
      last.last_step = damage.last_step;
      last.last_position = damage.last_position;
      last.length_bytes += damage.length_bytes;
      last.shared = last.shared || (!damage.columns.empty() && !is_unread(damage));
      last.record = "STEP " + range_text(*last.first_step, *last.last_step);
      return;
    }
  }
  damages.push_back(std::move(damage));
}

std::string kind_text(bool key, bool value) { return key && value ? "K and V" : key ? "K" : "V"; }

// "layer 3, V", "layers 0-4, K and V; layer 7, K".
std::string columns_text(const std::vector<DamagedColumn>& columns) {
  struct Run {
    std::uint32_t first;
    std::uint32_t last;
    bool key;
    bool value;
  };
  std::vector<Run> runs;
  for (std::size_t i = 0; i < columns.size();) {
    Run run{columns[i].layer, columns[i].layer, false, false};
    for (; i < columns.size() && columns[i].layer == run.first; ++i) {
      (columns[i].is_value ? run.value : run.key) = true;
    }
    const bool joins = !runs.empty() && runs.back().last + 1 == run.first &&
                       runs.back().key == run.key && runs.back().value == run.value;
    if (joins) {
      runs.back().last = run.last;
    } else {
      runs.push_back(run);
    }
  }
  std::string text;
  for (const Run& run : runs) {
    text += text.empty() ? "" : "; ";
    text += (run.first == run.last ? "layer " : "layers ") + range_text(run.first, run.last) +
            ", " + kind_text(run.key, run.value);
  }
  return text;
}

}  // namespace

FileVerdict make_verdict(const FileScan& scan, const ScanResult& result) {
  FileVerdict verdict;
  verdict.path = scan.source().path();
  verdict.bytes = scan.stored_bytes();
  verdict.packed = scan.packed() != nullptr;
  verdict.save_mode = scan.header().save_mode;
  verdict.complete = result.complete;
  verdict.truncation = result.truncation;
  verdict.num_steps = result.num_steps;
  verdict.intact_steps = result.intact_steps;
  verdict.num_records = result.num_records;
  if (!result.bad.empty()) verdict.damages = Locator(scan, result).locate();
  for (const PackedFault& fault : result.stored_bad) {
    Damage damage;
    damage.offset_bytes = fault.offset;
    damage.length_bytes = fault.bytes;
    damage.record = fault.record;
    damage.problem = fault.problem;
    damage.in_packed = true;
    verdict.damages.push_back(std::move(damage));
  }
  verdict.state = !verdict.damages.empty()     ? FileState::kDamaged
                  : verdict.truncation.empty() ? FileState::kIntact
                                               : FileState::kTruncated;
  return verdict;
}

std::string_view file_state_name(FileState state) {
  switch (state) {
    case FileState::kIntact: return "intact";
    case FileState::kTruncated: return "truncated";
    case FileState::kDamaged: return "damaged";
    case FileState::kUnreadable: return "unreadable";
  }
  return "unknown";
}

std::string describe_place(const Damage& damage) {
  std::vector<std::string> parts;
  if (damage.first_step && damage.statistics) parts.emplace_back("statistics");
  if (!damage.columns.empty()) {
    parts.push_back(columns_text(damage.columns) +
                    (damage.shared ? " (all damaged steps of this group together)" : ""));
  } else if (damage.first_position && damage.located) {
    parts.emplace_back("no K/V");
  } else if (damage.first_position) {
    parts.emplace_back("K or V of any layer");
  }
  if (damage.first_position && !(damage.located && damage.columns.empty())) {
    const bool one = damage.first_position == damage.last_position;
    parts.push_back((one ? "position " : "positions ") +
                    range_text(*damage.first_position, *damage.last_position));
  }
  std::string text = damage.record;
  for (std::size_t i = 0; i < parts.size(); ++i) text += (i == 0 ? ": " : ", ") + parts[i];
  return text;
}

}  // namespace kvtool::format
