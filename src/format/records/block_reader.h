// Reads of a recording that are larger than what is asked for: for those who go over a whole
// file, damaged or not.
#pragma once

#include <cstdint>
#include <span>

#include "read_block.h"
#include "record_source.h"

namespace kvtool::format {

// Of the size that verification reads at once.
[[nodiscard]] ReadBlock make_block();

// One for each thread and task.
class BlockReader {
 public:
  // `buffer` has a multiple of kRecordAlignment bytes and outlives the reader.
  BlockReader(const RecordSource& source, ReadBlock& buffer);

  // Error kCorrupt where the file has no such bytes, since damaged records may ask for any.

  // At least one and at most `bytes` bytes from `offset` on.
  [[nodiscard]] std::span<const std::byte> some(std::uint64_t offset, std::uint64_t bytes);
  // Exactly `bytes`, at most a buffer.
  [[nodiscard]] std::span<const std::byte> all(std::uint64_t offset, std::uint64_t bytes);
  // Checksum over any length.
  [[nodiscard]] std::uint64_t checksum_of(std::uint64_t offset, std::uint64_t bytes);
  [[nodiscard]] bool is_zero(std::uint64_t offset, std::uint64_t bytes);

 private:
  void require(std::uint64_t offset, std::uint64_t bytes) const;
  void fill(std::uint64_t offset);

  const RecordSource& source_;
  ReadBlock& buffer_;
  std::uint64_t start_ = 0;
  std::uint64_t filled_ = 0;
};

}  // namespace kvtool::format
