// A packed recording as the file that it was before: every byte of it can be
// read, and is unpacked when it is. What reads recordings reads it unawares.
#pragma once

#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "format/records/header_codec.h"
#include "format/records/record_source.h"
#include "kvtool/base/file.h"
#include "packed_block.h"
#include "packed_damage.h"

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

struct PackedFileOptions {
  // Damage is no error: what cannot be unpacked reads as a filler, and damage() knows where.
  // A damaged record is skipped, and told in faults().
  bool tolerant = false;
  // Unpacked ones that are held, each as long as its piece: at most 2^26 bytes, of a file that
  // kvtool packed 4 MiB. As many as there are places that are read at the same time.
  std::size_t cached_blocks = 2;
};

// Damage that has a place only in the packed file.
struct PackedFault {
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
  std::string record;
  std::string problem;
};

// Thread-safe. Holds the last few unpacked blocks. Errors, unless tolerant: kCorrupt for
// damage, which names the packed file and where in it.
class PackedFile final : public RandomAccessFile {
 public:
  // `header` was read from `file`, with the feature.
  PackedFile(std::unique_ptr<RandomAccessFile> file, const DecodedHeader& header,
             const PackedFileOptions& options = {});
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
  // Drops the unpacked blocks; the next read unpacks again.
  void release_blocks() const;
  // Checks every stored byte that reading leaves out: payload checksums and padding.
  void verify() const;

  // Records that verify() checks, each for itself: what is wrong with one, else empty.
  [[nodiscard]] const std::vector<RecordHeader>& records() const { return records_; }
  [[nodiscard]] std::string stored_problem(const RecordHeader& record) const;

  // Of a tolerant one. Sections are known to be damaged once they have been read.
  [[nodiscard]] const PackedDamage& damage() const { return *damage_; }
  [[nodiscard]] const std::vector<PackedFault>& faults() const { return faults_; }

 private:
  struct BlockPlace {
    RecordHeader record;
    bool lost = false;  // one or more records of which nothing can be read
    [[nodiscard]] std::uint64_t start() const { return record.index; }
    [[nodiscard]] std::uint64_t bytes() const { return record.raw_bytes; }
  };
  class Block;

  [[nodiscard]] std::uint64_t front_record(std::uint64_t offset, RecordType type) const;
  void find_lost_front();
  void scan();
  [[nodiscard]] bool scan_record(std::uint64_t& offset, std::uint32_t& sequence);
  [[nodiscard]] std::string header_problem(const RecordHeader& record, std::uint64_t offset,
                                           std::uint32_t sequence) const;
  [[nodiscard]] bool go_on_behind(std::uint64_t& offset, std::uint32_t& sequence,
                                  const std::string& problem);
  [[nodiscard]] std::optional<RecordHeader> find_record(std::uint64_t lost,
                                                        std::uint32_t sequence) const;
  [[nodiscard]] std::optional<PackEnd> read_end(const RecordHeader& record) const;
  [[nodiscard]] std::string end_problem(const RecordHeader& record,
                                        const std::optional<PackEnd>& end) const;
  void load_end(const RecordHeader& record);
  [[nodiscard]] bool zeros_from(std::uint64_t offset) const;
  [[nodiscard]] std::size_t block_at(std::uint64_t offset) const;
  [[nodiscard]] std::shared_ptr<Block> cached_block(std::size_t index) const;
  [[noreturn]] void damaged(const RecordHeader& record, const std::string& what) const;

  RecordSource source_;
  std::uint64_t uuid_low_;
  PackedFileOptions options_;
  std::vector<std::byte> header_;  // the original's
  std::uint64_t front_end_ = 0;    // up to here both files are alike but for the header
  std::uint64_t size_ = 0;
  std::vector<BlockPlace> blocks_;
  std::vector<RecordHeader> records_;  // PACK_END is checked when it is found
  std::vector<PackedFault> faults_;
  std::unique_ptr<PackedDamage> damage_;  // null: damage is an error
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
                                                  const std::filesystem::path& path,
                                                  const PackedFileOptions& options = {});

}  // namespace kvtool::format
