#include "packed_file.h"

#include <algorithm>
#include <array>
#include <new>
#include <utility>

#include "bytes.h"
#include "checksum.h"
#include "kvtool/base/error.h"

namespace kvtool::format {
namespace {

// Two readers that are a block apart, such as a comparison's, do not evict one another.
constexpr std::size_t kCachedBlocks = 2;
constexpr std::size_t kChunkBytes = 256 * 1024;
constexpr std::size_t kFeaturesAt = 16;

SectionDecoder& this_threads_decoder() {
  thread_local SectionDecoder decoder;
  return decoder;
}

bool all_zero(std::span<const std::byte> bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b == std::byte{0}; });
}

}  // namespace

void mark_packed(std::span<std::byte> header, bool packed) {
  const auto features = load<std::uint64_t>(header, kFeaturesAt);
  store(header, kFeaturesAt, packed ? features | kPackedFeature : features & ~kPackedFeature);
  const std::size_t checksum_at = header.size() - 8;
  store(header, checksum_at, checksum(header.subspan(0, checksum_at)));
}

void encode_pack_end(const PackEnd& end, std::span<std::byte> target) {
  store(target, 0, end.original_bytes);
  store(target, 8, end.original_checksum);
  store(target, 16, end.num_blocks);
}

// One block; its sections are unpacked when they are first read.
class PackedFile::Block {
 public:
  Block(const PackedFile& file, std::size_t index)
      : file_(file), index_(index), record_(file.blocks_[index].record) {}

  [[nodiscard]] std::size_t index() const { return index_; }

  void read(std::uint64_t at, std::span<std::byte> target) {
    const std::lock_guard lock(mutex_);
    load_table();
    if (raw_ == nullptr) {
      raw_ = std::make_unique_for_overwrite<std::byte[]>(record_.raw_bytes);
      decoded_.resize(table_.sections.size());
    }
    const std::span<std::byte> raw(raw_.get(), record_.raw_bytes);
    const std::uint64_t first = at / table_.row_bytes;
    const std::uint64_t last = (at + target.size() - 1) / table_.row_bytes;
    const std::uint64_t begin = first == last ? at % table_.row_bytes : 0;
    const std::uint64_t end = first == last ? begin + target.size() : table_.row_bytes;
    for (std::size_t i = 0; i < table_.sections.size(); ++i) {
      const PackedSection& section = table_.sections[i];
      if (decoded_[i] || section.column >= end) continue;
      if (section.column + section.shape.row_bytes <= begin) continue;
      decode(section, raw);
      decoded_[i] = true;
    }
    copy_bytes(raw.subspan(at, target.size()), target);
  }

  // All of it, into memory of the caller's.
  void read_whole(std::span<std::byte> target) {
    const std::lock_guard lock(mutex_);
    load_table();
    for (const PackedSection& section : table_.sections) decode(section, target);
  }

 private:
  void load_table() {
    if (table_.rows != 0) return;
    std::array<std::byte, kBlockHeadBytes> head;
    const std::uint64_t start = record_.offset + kRecordHeaderBytes;
    if (record_.stored_bytes < head.size()) file_.damaged(record_, "it is too short");
    file_.source_.read(start, head);
    const auto bytes = block_table_bytes(head, record_.stored_bytes);
    if (!bytes) file_.damaged(record_, "its table has an impossible length");
    std::vector<std::byte> whole(*bytes);
    file_.source_.read(start, whole);
    BlockTable table;
    const std::string problem =
        decode_block_table(whole, record_.raw_bytes, record_.stored_bytes, table);
    if (!problem.empty()) file_.damaged(record_, problem);
    table_ = std::move(table);
  }

  void decode(const PackedSection& section, std::span<std::byte> raw) const {
    SectionDecoder& decoder = this_threads_decoder();
    file_.source_.read(record_.offset + kRecordHeaderBytes + section.stream,
                       decoder.stored(section));
    const std::string problem = decoder.decode(table_, section, raw);
    if (problem.empty()) return;
    file_.damaged(record_, "section at column " + std::to_string(section.column) + " of " +
                               std::to_string(table_.row_bytes) + ": " + problem);
  }

  const PackedFile& file_;
  std::size_t index_;
  const RecordHeader& record_;
  std::mutex mutex_;
  BlockTable table_;
  std::unique_ptr<std::byte[]> raw_;
  std::vector<bool> decoded_;
};

PackedFile::PackedFile(std::unique_ptr<RandomAccessFile> file, const DecodedHeader& header)
    : source_(std::move(file), uuid_low_half(header.header.uuid)), header_(header.header_bytes) {
  source_.read(0, header_);
  mark_packed(header_, false);
  front_end_ = front_record(header_.size(), RecordType::kMeta);
  if (front_end_ < source_.size()) front_end_ = front_record(front_end_, RecordType::kPrompt);
  size_ = front_end_;
  if (front_end_ < source_.size()) scan();
}

PackedFile::~PackedFile() = default;

// The end of META or PROMPT; that of the file when it ends within them, or when they
// are damaged: they stand as they are, so that whoever reads them finds out.
std::uint64_t PackedFile::front_record(std::uint64_t offset, RecordType type) const {
  if (source_.size() - offset < kRecordHeaderBytes) return source_.size();
  const std::optional<RecordHeader> record = source_.try_read_header(offset);
  if (!record || record->type != type || record->stored_bytes > source_.size() ||
      record_bytes(record->stored_bytes) > source_.size() - offset) {
    return source_.size();
  }
  return offset + record_bytes(record->stored_bytes);
}

void PackedFile::damaged(const RecordHeader& record, const std::string& what) const {
  source_.throw_damaged_at(record.offset, "the block that holds bytes " +
                                              std::to_string(record.index) + " to " +
                                              std::to_string(record.index + record.raw_bytes) +
                                              " of the recording: " + what);
}

bool PackedFile::zeros_from(std::uint64_t offset) const {
  std::vector<std::byte> chunk(kChunkBytes);
  while (offset < source_.size()) {
    const auto part =
        std::span(chunk).subspan(0, std::min<std::uint64_t>(chunk.size(), source_.size() - offset));
    source_.read(offset, part);
    if (!all_zero(part)) return false;
    offset += part.size();
  }
  return true;
}

void PackedFile::scan() {
  constexpr std::uint32_t kFirstSequence = 2;  // behind META and PROMPT
  std::uint64_t offset = front_end_;
  for (std::uint32_t sequence = kFirstSequence; scan_record(offset, sequence); ++sequence) {
  }
}

// False when no record can follow: PACK_END, or the file was cut.
bool PackedFile::scan_record(std::uint64_t& offset, std::uint32_t sequence) {
  const std::uint64_t rest = source_.size() - offset;
  if (rest < kRecordHeaderBytes) return false;
  const std::optional<RecordHeader> record = source_.try_read_header(offset);
  if (!record) {
    if (zeros_from(offset)) return false;
    source_.throw_damaged_at(offset, "the header of packed record " + std::to_string(sequence) +
                                         " has a wrong checksum");
  }
  if (record->sequence != sequence) {
    source_.throw_damaged_at(offset, "packed record " + std::to_string(sequence) +
                                         " has sequence number " +
                                         std::to_string(record->sequence));
  }
  const bool is_block = record->type == kPackedRecord;
  if (is_block && record->codec != kPlaneCodec) {
    throw_incompatible(path().string() + ": is packed with codec " + std::to_string(record->codec) +
                       ", which this kvtool cannot read: update it");
  }
  if (is_block &&
      (record->index != size_ || !is_possible_block(record->raw_bytes, record->stored_bytes))) {
    damaged(*record, "impossible place or lengths (" + std::to_string(record->stored_bytes) +
                         " bytes packed)");
  }
  if (record->stored_bytes > rest || record_bytes(record->stored_bytes) > rest) return false;
  if (is_block) add_block(*record);
  offset += record_bytes(record->stored_bytes);
  if (record->type == kPackEndRecord) {
    load_end(*record);
    return false;
  }
  // Records of later versions are counted and skipped.
  return true;
}

void PackedFile::add_block(const RecordHeader& record) {
  blocks_.push_back({record});
  size_ += record.raw_bytes;
  if (size_ <= kMaxSize) return;
  damaged(record, "it makes the recording larger than any can be");
}

void PackedFile::load_end(const RecordHeader& record) {
  source_.check_codec(record);
  const std::uint64_t end = record.offset + record_bytes(record.stored_bytes);
  if (record.stored_bytes != kPackEndPayloadBytes || end != source_.size()) {
    source_.throw_damaged_at(record.offset, "PACK_END is not the end of the file");
  }
  std::array<std::byte, kPackEndPayloadBytes> payload;
  source_.read_payload(record, payload);
  std::array<std::byte, kRecordAlignment> padding;
  const auto behind = std::span(padding).subspan(
      0, end - record.offset - kRecordHeaderBytes - kPackEndPayloadBytes);
  source_.read(end - behind.size(), behind);
  if (!all_zero(behind)) {
    source_.throw_damaged_at(record.offset, "the padding behind PACK_END is not zero");
  }
  PackEnd found;
  found.original_bytes = load<std::uint64_t>(payload, 0);
  found.original_checksum = load<std::uint64_t>(payload, 8);
  found.num_blocks = load<std::uint64_t>(payload, 16);
  if (found.original_bytes != size_ || found.num_blocks != blocks_.size()) {
    source_.throw_damaged_at(record.offset, "PACK_END contradicts the blocks");
  }
  end_ = found;
}

std::size_t PackedFile::block_at(std::uint64_t offset) const {
  const auto behind = std::upper_bound(
      blocks_.begin(), blocks_.end(), offset,
      [](std::uint64_t value, const BlockPlace& block) { return value < block.start(); });
  return static_cast<std::size_t>(behind - blocks_.begin()) - 1;
}

std::uint64_t PackedFile::piece_end(std::uint64_t offset) const {
  if (offset < header_.size()) return header_.size();
  if (offset < front_end_) return front_end_;
  const BlockPlace& block = blocks_[block_at(offset)];
  return block.start() + block.bytes();
}

std::shared_ptr<PackedFile::Block> PackedFile::cached_block(std::size_t index) const {
  const std::lock_guard lock(cache_mutex_);
  const auto found = std::find_if(cache_.begin(), cache_.end(),
                                  [index](const auto& block) { return block->index() == index; });
  if (found != cache_.end()) {
    cache_.splice(cache_.begin(), cache_, found);
  } else {
    cache_.push_front(std::make_shared<Block>(*this, index));
    if (cache_.size() > kCachedBlocks) cache_.pop_back();
  }
  return cache_.front();
}

std::size_t PackedFile::read(std::uint64_t offset, std::span<std::byte> target) const {
  if (offset >= size_) return 0;
  target = target.subspan(0, std::min<std::uint64_t>(target.size(), size_ - offset));
  std::size_t done = 0;
  while (done < target.size()) {
    const std::uint64_t at = offset + done;
    const auto part =
        target.subspan(done, std::min<std::uint64_t>(target.size() - done, piece_end(at) - at));
    if (at < header_.size()) {
      copy_bytes(std::span(header_).subspan(at, part.size()), part);
    } else if (at < front_end_) {
      source_.read(at, part);
    } else {
      const std::size_t index = block_at(at);
      if (part.size() == blocks_[index].bytes()) {
        Block(*this, index).read_whole(part);
      } else {
        cached_block(index)->read(at - blocks_[index].start(), part);
      }
    }
    done += part.size();
  }
  return done;
}

void PackedFile::verify() const {
  std::vector<std::byte> chunk(kChunkBytes);
  for (const BlockPlace& block : blocks_) {
    const RecordHeader& record = block.record;
    const std::uint64_t start = record.offset + kRecordHeaderBytes;
    StreamingChecksum sum;
    for (std::uint64_t done = 0; done < record.stored_bytes;) {
      const auto part = std::span(chunk).subspan(
          0, std::min<std::uint64_t>(chunk.size(), record.stored_bytes - done));
      source_.read(start + done, part);
      sum.update(part);
      done += part.size();
    }
    if (sum.digest() != record.payload_checksum) damaged(record, "its checksum is wrong");
    const auto padding = std::span(chunk).subspan(
        0, record_bytes(record.stored_bytes) - kRecordHeaderBytes - record.stored_bytes);
    source_.read(start + record.stored_bytes, padding);
    if (!all_zero(padding)) damaged(record, "the padding behind it is not zero");
  }
}

OpenedRecording open_recording_file(FileSystem& files, const std::filesystem::path& path) {
  std::unique_ptr<RandomAccessFile> file = files.open(path);
  if (!claims_feature(*file, kPackedFeature)) return {std::move(file), nullptr};
  const DecodedHeader header = read_header(*file, kPackedFeature);
  auto packed = std::make_unique<PackedFile>(std::move(file), header);
  const PackedFile* view = packed.get();
  return {std::move(packed), view};
}

}  // namespace kvtool::format
