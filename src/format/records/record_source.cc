#include "record_source.h"

#include <algorithm>
#include <utility>

#include "format/bytes.h"
#include "format/checksum.h"
#include "kvtool/base/error.h"

namespace kvtool::format {
namespace {

constexpr std::string_view kAdvice = ": the file is damaged, copy it again or record again";

}  // namespace

RecordSource::RecordSource(std::unique_ptr<RandomAccessFile> file, std::uint64_t uuid_low)
    : file_(std::move(file)), size_(file_->size()), uuid_low_(uuid_low) {}

void RecordSource::read(std::uint64_t offset, std::span<std::byte> target) const {
  if (target.empty()) return;
  const std::size_t count = file_->read(offset, target);
  if (count == target.size()) return;
  throw_corrupt(path().string() + ": ends at byte " + std::to_string(offset + count) +
                " while bytes up to " + std::to_string(offset + target.size()) +
                " are needed: it became shorter while it was read");
}

bool RecordSource::is_zero_from(std::uint64_t offset, ReadBlock& buffer) const {
  while (offset < size_) {
    const auto part =
        std::span(buffer).subspan(0, std::min<std::uint64_t>(buffer.size(), size_ - offset));
    read(offset, part);
    if (!all_zero(part)) return false;
    offset += part.size();
  }
  return true;
}

void RecordSource::check_place(const RecordHeader& header, std::uint64_t offset) const {
  if (header.uuid_low != uuid_low_) {
    throw_damaged_at(offset, describe_record(header) + " belongs to another recording");
  }
  if (header.offset != offset) {
    throw_damaged_at(offset,
                     describe_record(header) + " belongs at byte " + std::to_string(header.offset));
  }
}

std::optional<RecordHeader> RecordSource::try_read_header(std::uint64_t offset) const {
  std::array<std::byte, kRecordHeaderBytes> bytes;
  read(offset, bytes);
  const std::optional<RecordHeader> header = decode_record_header(bytes);
  if (header) check_place(*header, offset);
  return header;
}

RecordHeader RecordSource::check_header(std::span<const std::byte> bytes, std::uint64_t offset,
                                        RecordType type, std::uint64_t index,
                                        std::optional<std::uint64_t> payload_bytes) const {
  RecordHeader expected;
  expected.type = type;
  expected.index = index;
  const std::string wanted = describe_record(expected);
  const std::optional<RecordHeader> header = decode_record_header(bytes);
  if (!header) throw_damaged_at(offset, wanted + ": the record header's checksum is wrong");
  check_place(*header, offset);
  if (header->type != type || header->index != index) {
    throw_damaged_at(offset,
                     "found " + describe_record(*header) + " where " + wanted + " should be");
  }
  check_codec(*header);
  if (payload_bytes && header->stored_bytes != *payload_bytes) {
    throw_damaged(*header, "payload of " + std::to_string(header->stored_bytes) +
                               " bytes, expected " + std::to_string(*payload_bytes));
  }
  if (header->stored_bytes > kMaxSize || record_bytes(header->stored_bytes) > size_ - offset) {
    throw_damaged(*header, "payload of " + std::to_string(header->stored_bytes) +
                               " bytes runs past the end of the file");
  }
  return *header;
}

RecordHeader RecordSource::read_header(std::uint64_t offset, RecordType type, std::uint64_t index,
                                       std::optional<std::uint64_t> payload_bytes) const {
  if (offset > size_ || size_ - offset < kRecordHeaderBytes) {
    throw_damaged_at(
        offset, "a record should be here, but the file has " + std::to_string(size_) + " bytes");
  }
  std::array<std::byte, kRecordHeaderBytes> bytes;
  read(offset, bytes);
  return check_header(bytes, offset, type, index, payload_bytes);
}

void RecordSource::check_codec(const RecordHeader& header) const {
  if (header.codec != 0) {
    throw_incompatible(path().string() + ": " + describe_record(header) + " at byte " +
                       std::to_string(header.offset) + " is packed with codec " +
                       std::to_string(header.codec) + ", which this kvtool cannot read: update it");
  }
  if (header.raw_bytes != header.stored_bytes) {
    throw_damaged(header, "unpacked payload with two lengths, " +
                              std::to_string(header.stored_bytes) + " and " +
                              std::to_string(header.raw_bytes));
  }
}

void RecordSource::read_payload(const RecordHeader& header, std::span<std::byte> target) const {
  read(header.offset + kRecordHeaderBytes, target);
  if (checksum(target) != header.payload_checksum) {
    throw_damaged(header, "the payload's checksum is wrong");
  }
}

void RecordSource::throw_damaged(const RecordHeader& header, std::string_view what) const {
  throw_corrupt(path().string() + ": " + describe_record(header) + " at byte " +
                std::to_string(header.offset) + ": " + std::string(what) + std::string(kAdvice));
}

void RecordSource::throw_damaged_at(std::uint64_t offset, std::string_view what) const {
  throw_corrupt(path().string() + ": at byte " + std::to_string(offset) + ": " + std::string(what) +
                std::string(kAdvice));
}

}  // namespace kvtool::format
