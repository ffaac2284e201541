#include "packed_block.h"

#include <algorithm>

#include "format/bytes.h"
#include "format/checksum.h"

namespace kvtool::format {
namespace {

std::uint64_t table_checksum(std::span<const std::byte> head, std::span<const std::byte> entries) {
  StreamingChecksum sum;
  sum.update(head.subspan(0, 8));
  sum.update(entries);
  return sum.digest();
}

void encode_section(const PackedSection& section, std::span<std::byte> entry) {
  store(entry, 0, section.shape.row_bytes);
  store(entry, 4, section.shape.width);
  for (std::size_t i = 0; i < kMaxElementBytes; ++i) {
    store(entry, 8 + 4 * i, section.plane_bytes[i]);
  }
  store(entry, 24, section.stored_checksum);
  store(entry, 32, section.raw_checksum);
}

PackedSection decode_section(std::span<const std::byte> entry) {
  PackedSection section;
  section.shape.row_bytes = load<std::uint32_t>(entry, 0);
  section.shape.width = load<std::uint32_t>(entry, 4);
  for (std::size_t i = 0; i < kMaxElementBytes; ++i) {
    section.plane_bytes[i] = load<std::uint32_t>(entry, 8 + 4 * i);
  }
  section.stored_checksum = load<std::uint64_t>(entry, 24);
  section.raw_checksum = load<std::uint64_t>(entry, 32);
  return section;
}

bool has_valid_shape(const PackedSection& section) {
  const std::uint32_t width = section.shape.width;
  return (width == 1 || width == 2 || width == 4) && section.shape.row_bytes > 0 &&
         section.shape.row_bytes % width == 0;
}

bool has_valid_planes(const PackedSection& section, std::uint32_t rows) {
  const std::uint64_t plane = std::uint64_t{section.shape.row_bytes} / section.shape.width * rows;
  for (std::size_t i = 0; i < kMaxElementBytes; ++i) {
    const std::uint64_t stored = section.plane_bytes[i];
    if (i < section.shape.width ? stored < 1 || stored > plane : stored != 0) return false;
  }
  return true;
}

// Copies between a row's columns and a section that stands alone.
void gather_columns(std::span<const std::byte> raw, std::uint64_t row_bytes, std::uint64_t column,
                    std::uint64_t width, std::span<std::byte> target) {
  for (std::uint64_t at = 0; at < target.size(); at += width, column += row_bytes) {
    copy_bytes(raw.subspan(column, width), target.subspan(at));
  }
}

void scatter_columns(std::span<const std::byte> source, std::uint64_t width,
                     std::span<std::byte> raw, std::uint64_t row_bytes, std::uint64_t column) {
  for (std::uint64_t at = 0; at < source.size(); at += width, column += row_bytes) {
    copy_bytes(source.subspan(at, width), raw.subspan(column));
  }
}

std::span<std::byte> grown(std::vector<std::byte>& buffer, std::uint64_t size) {
  if (buffer.size() < size) buffer.resize(size);
  return std::span(buffer).subspan(0, size);
}

}  // namespace

bool is_possible_block(std::uint64_t raw_bytes, std::uint64_t stored_bytes) {
  return raw_bytes > 0 && raw_bytes <= kMaxBlockBytes &&
         stored_bytes <= raw_bytes + kBlockHeadBytes + kSectionEntryBytes * kMaxSections &&
         stored_bytes >= raw_bytes / kMaxExpansion;
}

std::optional<std::uint64_t> block_table_bytes(std::span<const std::byte> head,
                                               std::uint64_t stored_bytes) {
  const std::uint64_t sections = load<std::uint32_t>(head, 4);
  const std::uint64_t bytes = kBlockHeadBytes + kSectionEntryBytes * sections;
  if (sections < 1 || sections > kMaxSections || bytes > stored_bytes) return std::nullopt;
  return bytes;
}

std::string decode_block_table(std::span<const std::byte> bytes, std::uint64_t raw_bytes,
                               std::uint64_t stored_bytes, BlockTable& target) {
  const auto entries = bytes.subspan(kBlockHeadBytes);
  if (load<std::uint64_t>(bytes, 8) != table_checksum(bytes, entries)) {
    return "the checksum of its table is wrong";
  }
  target.rows = load<std::uint32_t>(bytes, 0);
  if (target.rows == 0 || raw_bytes % target.rows != 0) {
    return std::to_string(target.rows) + " rows do not fit its length";
  }
  target.row_bytes = raw_bytes / target.rows;
  std::uint64_t column = 0;
  std::uint64_t stream = bytes.size();
  for (std::uint64_t at = 0; at < entries.size(); at += kSectionEntryBytes) {
    PackedSection section = decode_section(entries.subspan(at, kSectionEntryBytes));
    const std::string name = "section " + std::to_string(target.sections.size());
    if (!has_valid_shape(section) || section.shape.row_bytes > target.row_bytes - column) {
      return name + " has an impossible shape";
    }
    if (!has_valid_planes(section, target.rows)) return name + " has an impossible length";
    for (const std::uint32_t stored : section.plane_bytes) section.stream_bytes += stored;
    if (section.stream_bytes > stored_bytes - stream) return name + " runs past the record";
    section.column = column;
    section.stream = stream;
    column += section.shape.row_bytes;
    stream += section.stream_bytes;
    target.sections.push_back(section);
  }
  return column == target.row_bytes ? "" : "its sections do not fill its rows";
}

PackedSection BlockEncoder::append_section(std::span<const std::byte> raw, const BlockTable& table,
                                           std::uint64_t column, const SectionShape& shape) {
  PackedSection section;
  section.shape = shape;
  const std::uint64_t bytes = std::uint64_t{shape.row_bytes} * table.rows;
  std::span<const std::byte> elements = raw;
  if (shape.row_bytes != table.row_bytes) {
    const std::span<std::byte> target = grown(column_, bytes);
    gather_columns(raw, table.row_bytes, column, shape.row_bytes, target);
    elements = target;
  }
  section.raw_checksum = checksum(elements);
  const std::span<std::byte> planes = grown(planes_, bytes);
  split_planes(elements, shape.width, planes);
  const std::size_t start = payload_bytes_;
  const std::uint64_t plane = bytes / shape.width;
  for (std::uint32_t i = 0; i < shape.width; ++i) {
    const auto part = planes.subspan(i * plane, plane);
    const auto target = std::span(payload_).subspan(payload_bytes_, plane);
    std::size_t stored = plane;
    if (shape.compressed) {
      stored = compressor_.compress(part, target);
    } else {
      copy_bytes(part, target);
    }
    section.plane_bytes[i] = static_cast<std::uint32_t>(stored);
    payload_bytes_ += stored;
  }
  section.stored_checksum = checksum(std::span(payload_).subspan(start, payload_bytes_ - start));
  return section;
}

std::span<const std::byte> BlockEncoder::encode(std::span<const std::byte> raw, std::uint32_t rows,
                                                std::span<const SectionShape> shapes) {
  BlockTable table;
  table.rows = rows;
  table.row_bytes = raw.size() / rows;
  payload_bytes_ = kBlockHeadBytes + kSectionEntryBytes * shapes.size();
  static_cast<void>(grown(payload_, payload_bytes_ + raw.size()));
  std::uint64_t column = 0;
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    const PackedSection section = append_section(raw, table, column, shapes[i]);
    encode_section(section, std::span(payload_).subspan(kBlockHeadBytes + kSectionEntryBytes * i,
                                                        kSectionEntryBytes));
    column += shapes[i].row_bytes;
  }
  const std::span<std::byte> payload(payload_);
  store(payload, 0, rows);
  store(payload, 4, static_cast<std::uint32_t>(shapes.size()));
  store(payload, 8,
        table_checksum(payload,
                       payload.subspan(kBlockHeadBytes, kSectionEntryBytes * shapes.size())));
  if (const std::size_t least = raw.size() / kMaxExpansion; payload_bytes_ < least) {
    std::ranges::fill(payload.subspan(payload_bytes_, least - payload_bytes_), std::byte{0});
    payload_bytes_ = least;
  }
  return payload.subspan(0, payload_bytes_);
}

std::span<std::byte> SectionDecoder::room(const PackedSection& section) {
  return grown(room_, section.stream_bytes);
}

std::string SectionDecoder::decode(const BlockTable& table, const PackedSection& section,
                                   std::span<const std::byte> stored, std::span<std::byte> raw) {
  if (checksum(stored) != section.stored_checksum) return "the checksum of its bytes is wrong";
  const std::uint32_t width = section.shape.width;
  const std::uint64_t bytes = std::uint64_t{section.shape.row_bytes} * table.rows;
  const std::uint64_t plane = bytes / width;
  std::span<const std::byte> planes = stored;
  if (section.stream_bytes != bytes) {
    const std::span<std::byte> target = grown(planes_, bytes);
    std::uint64_t at = 0;
    for (std::uint32_t i = 0; i < width; ++i) {
      const auto frame = stored.subspan(at, section.plane_bytes[i]);
      const auto part = target.subspan(i * plane, plane);
      if (frame.size() == plane) {
        copy_bytes(frame, part);
      } else if (!decompressor_.decompress(frame, part)) {
        return "plane " + std::to_string(i) + " cannot be decompressed";
      }
      at += frame.size();
    }
    planes = target;
  }
  const bool alone = section.shape.row_bytes == table.row_bytes || table.rows == 1;
  const std::span<std::byte> elements =
      alone ? raw.subspan(section.column, bytes) : grown(column_, bytes);
  merge_planes(planes, width, elements);
  if (checksum(elements) != section.raw_checksum)
    return "the checksum of what it unpacks to is wrong";
  if (!alone) {
    scatter_columns(elements, section.shape.row_bytes, raw, table.row_bytes, section.column);
  }
  return "";
}

std::string decode_block(std::span<const std::byte> payload, SectionDecoder& decoder,
                         std::span<std::byte> raw) {
  BlockTable table;
  const auto bytes = block_table_bytes(payload, payload.size());
  if (!bytes) return "its table has an impossible length";
  std::string problem =
      decode_block_table(payload.subspan(0, *bytes), raw.size(), payload.size(), table);
  for (const PackedSection& section : table.sections) {
    if (!problem.empty()) break;
    problem =
        decoder.decode(table, section, payload.subspan(section.stream, section.stream_bytes), raw);
  }
  return problem;
}

}  // namespace kvtool::format
