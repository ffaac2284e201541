// A packed recording as the file that it was before: every byte of it can be
// read, and is unpacked when it is. What reads recordings reads it unawares.
#pragma once

#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "header_codec.h"
#include "kvtool/base/file.h"
#include "packed_block.h"
#include "record_source.h"

namespace kvtool::format {

// Feature bit 0 of the header.
inline constexpr std::uint64_t kPackedFeature = 1;

// The header of a packed file from that of the original, and back: sets or
// clears the feature bit and repairs the checksum.
void mark_packed(std::span<std::byte> header, bool packed);

// What PACK_END says of the original.
struct PackEnd {
  std::uint64_t original_bytes = 0;
  std::uint64_t original_checksum = 0;
  std::uint64_t num_blocks = 0;
};
inline constexpr std::uint64_t kPackEndPayloadBytes = 24;
void encode_pack_end(const PackEnd& end, std::span<std::byte> target);

// Thread-safe. Holds the last few unpacked blocks. Errors: kCorrupt for damage,
// which names the packed file and where in it.
class PackedFile final : public RandomAccessFile {
 public:
  // `header` was read from `file`, with the feature.
  PackedFile(std::unique_ptr<RandomAccessFile> file, const DecodedHeader& header);
  ~PackedFile() override;

  // Of the original; of a truncated file, up to its last whole block.
  [[nodiscard]] std::uint64_t size() const override { return size_; }
  [[nodiscard]] std::size_t read(std::uint64_t offset, std::span<std::byte> target) const override;
  [[nodiscard]] const std::filesystem::path& path() const override { return source_.path(); }

  [[nodiscard]] std::uint64_t packed_bytes() const { return source_.size(); }
  // Empty when the file ends before it.
  [[nodiscard]] const std::optional<PackEnd>& end() const { return end_; }
  // Where the piece ends that is read at once with `offset` (below size()).
  [[nodiscard]] std::uint64_t piece_end(std::uint64_t offset) const;
  // Checks every stored byte that reading leaves out: payload checksums and padding.
  void verify() const;

 private:
  struct BlockPlace {
    RecordHeader record;
    [[nodiscard]] std::uint64_t start() const { return record.index; }
    [[nodiscard]] std::uint64_t bytes() const { return record.raw_bytes; }
  };
  class Block;

  [[nodiscard]] std::uint64_t front_record(std::uint64_t offset, RecordType type) const;
  void scan();
  [[nodiscard]] bool scan_record(std::uint64_t& offset, std::uint32_t sequence);
  void add_block(const RecordHeader& record);
  void load_end(const RecordHeader& record);
  [[nodiscard]] bool zeros_from(std::uint64_t offset) const;
  [[nodiscard]] std::size_t block_at(std::uint64_t offset) const;
  [[nodiscard]] std::shared_ptr<Block> cached_block(std::size_t index) const;
  [[noreturn]] void damaged(const RecordHeader& record, const std::string& what) const;

  RecordSource source_;
  std::vector<std::byte> header_;  // the original's
  std::uint64_t front_end_ = 0;    // up to here both files are alike but for the header
  std::uint64_t size_ = 0;
  std::vector<BlockPlace> blocks_;
  std::optional<PackEnd> end_;

  mutable std::mutex cache_mutex_;
  mutable std::list<std::shared_ptr<Block>> cache_;  // the last used first
};

// A recording's file as it was written: packed ones are unpacked as they are read.
struct OpenedRecording {
  std::unique_ptr<RandomAccessFile> file;
  const PackedFile* packed = nullptr;  // the same file, when it is packed
};
[[nodiscard]] OpenedRecording open_recording_file(FileSystem& files,
                                                  const std::filesystem::path& path);

}  // namespace kvtool::format
