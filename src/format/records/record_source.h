// Checked reads from one recording file. Thread-safe: it has no state that changes.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "kvtool/base/file.h"
#include "read_block.h"
#include "record_codec.h"

namespace kvtool::format {

class RecordSource {
 public:
  RecordSource(std::unique_ptr<RandomAccessFile> file, std::uint64_t uuid_low);

  [[nodiscard]] const std::filesystem::path& path() const { return file_->path(); }
  [[nodiscard]] const RandomAccessFile& file() const { return *file_; }
  // As it was when the file was opened; a recording that grows is read up to here.
  [[nodiscard]] std::uint64_t size() const { return size_; }

  // All bytes; Error kCorrupt when the file became shorter.
  void read(std::uint64_t offset, std::span<std::byte> target) const;

  // Nothing but zeros stand from `offset` to the end of the file. Uses `buffer`.
  [[nodiscard]] bool is_zero_from(std::uint64_t offset, ReadBlock& buffer) const;

  // The header at `offset`, whose 64 bytes lie in the file. Empty when its checksum is
  // wrong; Error kCorrupt when it is intact but belongs to another place or recording.
  [[nodiscard]] std::optional<RecordHeader> try_read_header(std::uint64_t offset) const;
  // The record of this type, index and payload length at `offset`, which lies
  // wholly in the file; else Error kCorrupt.
  [[nodiscard]] RecordHeader read_header(std::uint64_t offset, RecordType type, std::uint64_t index,
                                         std::optional<std::uint64_t> payload_bytes) const;
  // As above from bytes that were read already.
  [[nodiscard]] RecordHeader check_header(std::span<const std::byte> bytes, std::uint64_t offset,
                                          RecordType type, std::uint64_t index,
                                          std::optional<std::uint64_t> payload_bytes) const;
  // Error kIncompatible for a codec that this reader does not know, kCorrupt for
  // lengths that contradict each other.
  void check_codec(const RecordHeader& header) const;

  // The whole payload with its checksum; target has header.stored_bytes.
  void read_payload(const RecordHeader& header, std::span<std::byte> target) const;

  [[noreturn]] void throw_damaged(const RecordHeader& header, std::string_view what) const;
  [[noreturn]] void throw_damaged_at(std::uint64_t offset, std::string_view what) const;

 private:
  void check_place(const RecordHeader& header, std::uint64_t offset) const;

  std::unique_ptr<RandomAccessFile> file_;
  std::uint64_t size_;
  std::uint64_t uuid_low_;
};

}  // namespace kvtool::format
