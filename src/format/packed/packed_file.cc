#include "packed_file.h"

#include <algorithm>
#include <array>
#include <new>
#include <utility>

#include "format/bytes.h"
#include "format/checksum.h"
#include "format/records/read_block.h"
#include "kvtool/base/error.h"

namespace kvtool::format {
namespace {

constexpr std::size_t kReadChunkBytes = 256 * 1024;
constexpr std::size_t kFeaturesAt = 16;
constexpr std::uint32_t kFirstSequence = 2;  // behind META and PROMPT
// Stands for what cannot be unpacked. Not zero: zeros at the end are a truncation.
constexpr std::byte kFiller{0xa5};

SectionDecoder& this_threads_decoder() {
  thread_local SectionDecoder decoder;
  return decoder;
}

std::string block_text(const RecordHeader& record) {
  return "the block that holds bytes " + std::to_string(record.index) + " to " +
         std::to_string(record.index + record.raw_bytes) + " of the recording";
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
      : file_(file),
        index_(index),
        record_(file.blocks_[index].record),
        lost_(file.blocks_[index].lost) {}

  [[nodiscard]] std::size_t index() const { return index_; }

  void read(std::uint64_t at, std::span<std::byte> target) {
    const std::lock_guard lock(mutex_);
    if (!load_table()) return fill(target);
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
    if (!load_table()) return fill(target);
    for (const PackedSection& section : table_.sections) decode(section, target);
  }

 private:
  static void fill(std::span<std::byte> target) {
    std::fill(target.begin(), target.end(), kFiller);
  }

  // False when nothing of the block can be read.
  bool load_table() {
    if (table_.rows != 0) return true;
    if (lost_) return false;
    BlockTable table;
    const std::string problem = attempt([&] { return table_problem(table); });
    if (problem.empty()) {
      table_ = std::move(table);
      return true;
    }
    if (file_.damage_ == nullptr) file_.damaged(record_, problem);
    file_.damage_->add_piece(record_.index, record_.raw_bytes, placed(problem));
    lost_ = true;
    return false;
  }

  std::string table_problem(BlockTable& table) const {
    std::array<std::byte, kBlockHeadBytes> head;
    const std::uint64_t start = record_.offset + kRecordHeaderBytes;
    if (record_.stored_bytes < head.size()) return "it is too short";
    file_.source_.read(start, head);
    const auto bytes = block_table_bytes(head, record_.stored_bytes);
    if (!bytes) return "its table has an impossible length";
    std::vector<std::byte> whole(*bytes);
    file_.source_.read(start, whole);
    return decode_block_table(whole, record_.raw_bytes, record_.stored_bytes, table);
  }

  void decode(const PackedSection& section, std::span<std::byte> raw) const {
    SectionDecoder& decoder = this_threads_decoder();
    const std::span<std::byte> stored = decoder.room(section);
    std::string problem = attempt([&] {
      file_.source_.read(record_.offset + kRecordHeaderBytes + section.stream, stored);
      return std::string();
    });
    if (problem.empty()) problem = decoder.decode(table_, section, stored, raw);
    if (problem.empty()) return;
    problem = "section at column " + std::to_string(section.column) + " of " +
              std::to_string(table_.row_bytes) + ": " + problem;
    if (file_.damage_ == nullptr) file_.damaged(record_, problem);
    file_.damage_->add({record_.index, record_.raw_bytes, table_.row_bytes, section.column,
                        section.shape.row_bytes, placed(problem)});
    for (std::uint64_t row = 0; row < raw.size(); row += table_.row_bytes) {
      fill(raw.subspan(row + section.column, section.shape.row_bytes));
    }
  }

  // A place that the disk cannot read any more is damage as any other.
  template <typename Try>
  std::string attempt(Try work) const {
    try {
      return work();
    } catch (const Error& error) {
      if (file_.damage_ == nullptr) throw;
      return error.what();
    }
  }

  [[nodiscard]] std::string placed(const std::string& problem) const {
    return "packed record at byte " + std::to_string(record_.offset) + " of the file: " + problem;
  }

  const PackedFile& file_;
  std::size_t index_;
  const RecordHeader& record_;
  std::mutex mutex_;
  bool lost_;
  BlockTable table_;
  std::unique_ptr<std::byte[]> raw_;
  std::vector<bool> decoded_;
};

PackedFile::PackedFile(std::unique_ptr<RandomAccessFile> file, const DecodedHeader& header,
                       const PackedFileOptions& options)
    : source_(std::move(file), uuid_low_half(header.header.uuid)),
      uuid_low_(uuid_low_half(header.header.uuid)),
      options_(options),
      header_(header.header_bytes) {
  if (options_.tolerant) damage_ = std::make_unique<PackedDamage>();
  source_.read(0, header_);
  mark_packed(header_, false);
  front_end_ = front_record(header_.size(), RecordType::kMeta);
  if (front_end_ < source_.size()) front_end_ = front_record(front_end_, RecordType::kPrompt);
  if (front_end_ == source_.size() && options_.tolerant) find_lost_front();
  size_ = front_end_;
  if (front_end_ < source_.size()) scan();
}

PackedFile::~PackedFile() = default;

// The end of META or PROMPT; that of the file when it ends within them, or when they
// are damaged: they stand as they are, so that whoever reads them finds out.
std::uint64_t PackedFile::front_record(std::uint64_t offset, RecordType type) const {
  if (source_.size() - offset < kRecordHeaderBytes) return source_.size();
  std::array<std::byte, kRecordHeaderBytes> bytes;
  source_.read(offset, bytes);
  const std::optional<RecordHeader> record = decode_record_header(bytes);
  if (!record || record->type != type || record->offset != offset ||
      record->uuid_low != uuid_low_ || record->stored_bytes > source_.size() ||
      record_bytes(record->stored_bytes) > source_.size() - offset) {
    return source_.size();
  }
  return offset + record_bytes(record->stored_bytes);
}

// META or PROMPT has no header any more: the first block says where they end.
void PackedFile::find_lost_front() {
  const auto first = find_record(header_.size(), kFirstSequence - 1);
  if (!first) return;
  const bool next = first->sequence == kFirstSequence && first->index == first->offset;
  front_end_ = next ? first->offset : header_.size();
}

void PackedFile::damaged(const RecordHeader& record, const std::string& what) const {
  source_.throw_damaged_at(record.offset, block_text(record) + ": " + what);
}

bool PackedFile::zeros_from(std::uint64_t offset) const {
  ReadBlock chunk(kReadChunkBytes);
  return source_.is_zero_from(offset, chunk);
}

void PackedFile::scan() {
  std::uint64_t offset = front_end_;
  std::uint32_t sequence = kFirstSequence;
  while (scan_record(offset, sequence)) {
  }
}

std::string PackedFile::header_problem(const RecordHeader& record, std::uint64_t offset,
                                       std::uint32_t sequence) const {
  if (record.uuid_low != uuid_low_)
    return describe_record(record) + " belongs to another recording";
  if (record.offset != offset) {
    return describe_record(record) + " belongs at byte " + std::to_string(record.offset);
  }
  if (record.sequence != sequence) {
    return "packed record " + std::to_string(sequence) + " has sequence number " +
           std::to_string(record.sequence);
  }
  if (record.type != kPackedRecord) return "";
  if (record.codec != kPlaneCodec) {
    throw_incompatible(path().string() + ": is packed with codec " + std::to_string(record.codec) +
                       ", which this kvtool cannot read: update it");
  }
  if (record.index != size_ || !is_possible_block(record.raw_bytes, record.stored_bytes)) {
    return block_text(record) + ": impossible place or lengths (" +
           std::to_string(record.stored_bytes) + " bytes packed)";
  }
  if (size_ + record.raw_bytes <= kMaxSize) return "";
  return block_text(record) + ": it makes the recording larger than any can be";
}

// False when no record can follow: PACK_END, or the file was cut.
bool PackedFile::scan_record(std::uint64_t& offset, std::uint32_t& sequence) {
  const std::uint64_t rest = source_.size() - offset;
  if (rest < kRecordHeaderBytes) return false;
  std::array<std::byte, kRecordHeaderBytes> bytes;
  source_.read(offset, bytes);
  const std::optional<RecordHeader> record = decode_record_header(bytes);
  if (!record && zeros_from(offset)) return false;
  const std::string problem =
      record ? header_problem(*record, offset, sequence)
             : "the header of packed record " + std::to_string(sequence) + " has a wrong checksum";
  if (!problem.empty()) {
    if (options_.tolerant) return go_on_behind(offset, sequence, problem);
    source_.throw_damaged_at(offset, problem);
  }
  if (record->stored_bytes > rest || record_bytes(record->stored_bytes) > rest) return false;
  if (record->type == kPackEndRecord) {
    load_end(*record);
    return false;
  }
  // Records of later versions are counted and skipped.
  records_.push_back(*record);
  if (record->type == kPackedRecord) {
    blocks_.push_back({*record});
    size_ += record->raw_bytes;
  }
  offset += record_bytes(record->stored_bytes);
  ++sequence;
  return true;
}

// The next packed record behind a damaged one whose checksum, place and UUID are right.
// How much of the original may be missing is bounded as if all of it had been packed.
std::optional<RecordHeader> PackedFile::find_record(std::uint64_t lost,
                                                    std::uint32_t sequence) const {
  ReadBlock chunk(kReadChunkBytes);
  for (std::uint64_t start = lost + kRecordAlignment; start < source_.size();
       start += chunk.size()) {
    const auto part =
        std::span(chunk).subspan(0, std::min<std::uint64_t>(chunk.size(), source_.size() - start));
    source_.read(start, part);
    for (std::uint64_t at = 0; at + kRecordHeaderBytes <= part.size(); at += kRecordAlignment) {
      const auto bytes = part.subspan(at, kRecordHeaderBytes);
      if (load<std::uint64_t>(bytes, 16) != start + at) continue;
      const auto record = decode_record_header(bytes);
      if (!record || record->uuid_low != uuid_low_ || record->sequence <= sequence) continue;
      if (record->type == kPackEndRecord && record->codec == 0) return record;
      if (record->type == kPackedRecord && record->codec == kPlaneCodec && record->index >= size_ &&
          record->index - size_ <= kMaxExpansion * (start + at - lost) &&
          is_possible_block(record->raw_bytes, record->stored_bytes)) {
        return record;
      }
    }
  }
  return std::nullopt;
}

// Goes on at the next record. A block whose record header alone is damaged can still be
// unpacked: what its header said follows from its neighbours, and its table says the rest.
bool PackedFile::go_on_behind(std::uint64_t& offset, std::uint32_t& sequence,
                              const std::string& problem) {
  const auto next = find_record(offset, sequence);
  RecordHeader lost;
  lost.type = kPackedRecord;
  lost.offset = offset;
  lost.index = size_;
  const std::uint64_t end = next ? next->offset : source_.size();
  faults_.push_back({offset, end - offset, "packed record " + std::to_string(sequence), problem});
  if (!next) return false;
  std::uint64_t until = next->index;
  if (next->type == kPackEndRecord) {
    const auto pack_end = read_end(*next);
    until = pack_end ? pack_end->original_bytes : size_;
  }
  lost.stored_bytes = end - offset - kRecordHeaderBytes;
  if (until > size_ && until - size_ <= kMaxExpansion * (end - offset) && until <= kMaxSize) {
    lost.raw_bytes = until - size_;
    const bool one =
        next->sequence == sequence + 1 && is_possible_block(lost.raw_bytes, lost.stored_bytes);
    if (!one) {
      damage_->add_piece(
          size_, lost.raw_bytes,
          "packed records from byte " + std::to_string(offset) + " of the file on: " + problem);
    }
    blocks_.push_back({lost, !one});
    size_ = until;
  }
  offset = end;
  sequence = next->sequence;
  return true;
}

// Empty when the payload is damaged.
std::optional<PackEnd> PackedFile::read_end(const RecordHeader& record) const {
  std::array<std::byte, kPackEndPayloadBytes> payload;
  if (record.stored_bytes != payload.size() ||
      source_.size() - record.offset < record_bytes(payload.size())) {
    return std::nullopt;
  }
  source_.read(record.offset + kRecordHeaderBytes, payload);
  if (checksum(payload) != record.payload_checksum) return std::nullopt;
  return PackEnd{load<std::uint64_t>(payload, 0), load<std::uint64_t>(payload, 8),
                 load<std::uint64_t>(payload, 16)};
}

std::string PackedFile::end_problem(const RecordHeader& record,
                                    const std::optional<PackEnd>& end) const {
  const std::uint64_t file_end = record.offset + record_bytes(record.stored_bytes);
  if (record.stored_bytes != kPackEndPayloadBytes || file_end != source_.size()) {
    return "PACK_END is not the end of the file";
  }
  if (!end) return "the payload's checksum of PACK_END is wrong";
  std::array<std::byte, kRecordAlignment> padding;
  const auto behind = std::span(padding).subspan(
      0, file_end - record.offset - kRecordHeaderBytes - kPackEndPayloadBytes);
  source_.read(file_end - behind.size(), behind);
  if (!all_zero(behind)) return "the padding behind PACK_END is not zero";
  // Lost records may be several blocks.
  if (end->original_bytes != size_ || (faults_.empty() && end->num_blocks != blocks_.size())) {
    return "PACK_END contradicts the blocks";
  }
  return "";
}

void PackedFile::load_end(const RecordHeader& record) {
  source_.check_codec(record);
  const std::optional<PackEnd> end = read_end(record);
  const std::string problem = end_problem(record, end);
  if (problem.empty()) {
    end_ = end;
  } else if (options_.tolerant) {
    faults_.push_back({record.offset, source_.size() - record.offset, "PACK_END", problem});
  } else {
    source_.throw_damaged_at(record.offset, problem);
  }
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

void PackedFile::release_blocks() const {
  const std::lock_guard lock(cache_mutex_);
  cache_.clear();
}

std::shared_ptr<PackedFile::Block> PackedFile::cached_block(std::size_t index) const {
  const std::lock_guard lock(cache_mutex_);
  const auto found = std::find_if(cache_.begin(), cache_.end(),
                                  [index](const auto& block) { return block->index() == index; });
  if (found != cache_.end()) {
    cache_.splice(cache_.begin(), cache_, found);
  } else {
    cache_.push_front(std::make_shared<Block>(*this, index));
    if (cache_.size() > options_.cached_blocks) cache_.pop_back();
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

std::string PackedFile::stored_problem(const RecordHeader& record) const {
  ReadBlock chunk(kReadChunkBytes);
  const std::uint64_t start = record.offset + kRecordHeaderBytes;
  StreamingChecksum sum;
  for (std::uint64_t done = 0; done < record.stored_bytes;) {
    const auto part = std::span(chunk).subspan(
        0, std::min<std::uint64_t>(chunk.size(), record.stored_bytes - done));
    source_.read(start + done, part);
    sum.update(part);
    done += part.size();
  }
  if (sum.digest() != record.payload_checksum) return "its checksum is wrong";
  const auto padding = std::span(chunk).subspan(
      0, record_bytes(record.stored_bytes) - kRecordHeaderBytes - record.stored_bytes);
  source_.read(start + record.stored_bytes, padding);
  return all_zero(padding) ? "" : "the padding behind it is not zero";
}

void PackedFile::verify() const {
  for (const RecordHeader& record : records_) {
    const std::string problem = stored_problem(record);
    if (problem.empty()) continue;
    if (record.type == kPackedRecord) damaged(record, problem);
    source_.throw_damaged(record, problem);
  }
}

OpenedRecording open_recording_file(FileSystem& files, const std::filesystem::path& path,
                                    const PackedFileOptions& options) {
  std::unique_ptr<RandomAccessFile> file = files.open(path);
  if (!claims_feature(*file, kPackedFeature)) return {std::move(file), nullptr};
  const DecodedHeader header = read_header(*file, kPackedFeature);
  auto packed = std::make_unique<PackedFile>(std::move(file), header, options);
  const PackedFile* view = packed.get();
  return {std::move(packed), view};
}

}  // namespace kvtool::format
