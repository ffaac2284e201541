#include "block_reader.h"

#include <algorithm>
#include <string>

#include "format/bytes.h"
#include "format/checksum.h"
#include "kvtool/format/verify.h"

namespace kvtool::format {

ReadBlock make_block() { return ReadBlock(kVerifyBlockBytes); }

BlockReader::BlockReader(const RecordSource& source, ReadBlock& buffer)
    : source_(source), buffer_(buffer) {}

void BlockReader::fill(std::uint64_t offset) {
  filled_ = 0;
  const std::uint64_t bytes = std::min<std::uint64_t>(buffer_.size(), source_.size() - offset);
  source_.read(offset, std::span(buffer_).subspan(0, bytes));
  start_ = offset;
  filled_ = bytes;
}

void BlockReader::require(std::uint64_t offset, std::uint64_t bytes) const {
  if (offset <= source_.size() && bytes <= source_.size() - offset) return;
  source_.throw_damaged_at(offset, std::to_string(bytes) +
                                       " bytes should be here, but the file has " +
                                       std::to_string(source_.size()) + " bytes");
}

std::span<const std::byte> BlockReader::some(std::uint64_t offset, std::uint64_t bytes) {
  if (bytes == 0) return {};
  require(offset, 1);
  if (offset < start_ || offset >= start_ + filled_) fill(offset);
  const std::span<const std::byte> filled = std::span(buffer_).subspan(0, filled_);
  const auto rest = filled.subspan(offset - start_);
  return rest.subspan(0, std::min<std::uint64_t>(bytes, rest.size()));
}

std::span<const std::byte> BlockReader::all(std::uint64_t offset, std::uint64_t bytes) {
  require(offset, bytes);
  const auto found = some(offset, bytes);
  if (found.size() == bytes) return found;
  fill(offset);
  return some(offset, bytes);
}

std::uint64_t BlockReader::checksum_of(std::uint64_t offset, std::uint64_t bytes) {
  if (bytes == 0) return checksum({});
  auto part = some(offset, bytes);
  if (part.size() == bytes) return checksum(part);
  StreamingChecksum sum;
  for (std::uint64_t done = 0;;) {
    sum.update(part);
    done += part.size();
    if (done == bytes) return sum.digest();
    part = some(offset + done, bytes - done);
  }
}

bool BlockReader::is_zero(std::uint64_t offset, std::uint64_t bytes) {
  for (std::uint64_t done = 0; done < bytes;) {
    const auto part = some(offset + done, bytes - done);
    if (!all_zero(part)) return false;
    done += part.size();
  }
  return true;
}

}  // namespace kvtool::format
