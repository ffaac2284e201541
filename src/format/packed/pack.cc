#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "format/bytes.h"
#include "format/checksum.h"
#include "format/layout.h"
#include "format/records/header_codec.h"
#include "format/records/record_source.h"
#include "kvtool/base/checked.h"
#include "kvtool/base/error.h"
#include "kvtool/format/pack.h"
#include "kvtool/format/reader.h"
#include "packed_block.h"
#include "packed_file.h"

namespace kvtool::format {
namespace {

namespace fs = std::filesystem;

// Of the original in one block. Measured (docs/format.md): longer columns compress
// better and faster up to 128 steps; a random step costs one block.
constexpr std::uint64_t kBlockBytes = 4u << 20;
constexpr std::uint64_t kBlockSteps = 128;
// Statistics alone are so small that more of them still make a small block.
constexpr std::uint64_t kSmallBlockBytes = 256u << 10;
// Stays in a core's cache between the read and the checksum.
constexpr std::size_t kReadBackBytes = 256u << 10;

FileSystem& file_system_of(const PackOptions& options) {
  return options.file_system != nullptr ? *options.file_system : posix_file_system();
}

// A new file beside `target` that gets its name in commit(), or vanishes. The
// name is no recording's, and not that of another process that does the same.
class Replacement {
 public:
  Replacement(FileSystem& files, fs::path target, bool sync)
      : files_(files), target_(std::move(target)), temporary_(target_), sync_(sync) {
    temporary_ += ".packing-" + to_string(random_uuid()).substr(0, 8);
    file_ = files_.create(temporary_);
  }
  ~Replacement() {
    if (committed_) return;
    try {
      files_.remove(temporary_);
    } catch (const Error&) {
      // The error that led here says more.
    }
  }
  Replacement(const Replacement&) = delete;
  Replacement& operator=(const Replacement&) = delete;

  void append(std::span<const std::byte> data) {
    file_->append(data);
    sum_.update(data);
    size_ += data.size();
  }
  void append_padding() {
    const std::array<std::byte, kRecordAlignment> zeros{};
    append(std::span(zeros).subspan(0, align_up(size_, kRecordAlignment) - size_));
  }
  [[nodiscard]] std::uint64_t size() const { return size_; }
  [[nodiscard]] const fs::path& temporary() const { return temporary_; }

  void close() {
    if (sync_) file_->sync();
    file_->close();
  }
  // Checksum of what append() was given.
  [[nodiscard]] std::uint64_t digest() const { return sum_.digest(); }
  // Whether the closed file holds just that.
  [[nodiscard]] bool reads_back(const std::function<void(std::uint64_t)>& take) const;
  void commit() {
    files_.rename(temporary_, target_);
    committed_ = true;
    if (sync_) files_.sync_directory(target_.has_parent_path() ? target_.parent_path() : ".");
  }

 private:
  FileSystem& files_;
  fs::path target_;
  fs::path temporary_;
  bool sync_;
  std::unique_ptr<WritableFile> file_;
  StreamingChecksum sum_;
  std::uint64_t size_ = 0;
  bool committed_ = false;
};

std::uint64_t read_all(const RandomAccessFile& file, std::uint64_t offset,
                       std::span<std::byte> target) {
  if (file.read(offset, target) == target.size()) return target.size();
  throw_corrupt(file.path().string() + ": became shorter while it was read");
}

bool Replacement::reads_back(const std::function<void(std::uint64_t)>& take) const {
  const std::unique_ptr<RandomAccessFile> written = files_.open(temporary_);
  StreamingChecksum sum;
  std::vector<std::byte> buffer(kReadBackBytes);
  for (std::uint64_t at = 0; at < written->size();) {
    const auto part =
        std::span(buffer).subspan(0, std::min<std::uint64_t>(buffer.size(), written->size() - at));
    at += read_all(*written, at, part);
    sum.update(part);
    take(part.size());
  }
  return written->size() == size_ && sum.digest() == sum_.digest();
}

class Progress {
 public:
  explicit Progress(const PackOptions& options) : call_(options.progress) {}
  void add(std::uint64_t bytes) {
    done_ += bytes;
    if (call_) call_(done_);
  }

 private:
  const std::function<void(std::uint64_t)>& call_;
  std::uint64_t done_ = 0;
};

// Walks the verified records of a recording and packs them block by block.
class Packer {
 public:
  Packer(RecordSource source, DecodedHeader header, std::uint64_t num_steps, Replacement& target,
         Progress& progress)
      : source_(std::move(source)),
        num_steps_(num_steps),
        header_(std::move(header.header)),
        header_bytes_(header.header_bytes),
        target_(target),
        progress_(progress) {}

  void run() {
    copy_front();
    while (position_ < source_.size()) pack_next();
    PackEnd end{source_.size(), sum_.digest(), num_blocks_};
    std::array<std::byte, kPackEndPayloadBytes> payload{};
    encode_pack_end(end, payload);
    append_record(kPackEndRecord, 0, 0, payload.size(), payload);
  }

 private:
  void copy_front();
  void pack_next();
  void pack_steps();
  void pack_state(const RecordHeader& record, std::uint64_t end);
  void pack_plain(std::uint64_t end);
  void pack_block(std::uint64_t bytes, std::uint32_t rows, std::span<const SectionShape> shapes);
  void prove(std::span<const std::byte> payload, std::span<const std::byte> raw);
  void append_record(RecordType type, std::uint8_t codec, std::uint64_t index,
                     std::uint64_t raw_bytes, std::span<const std::byte> payload);
  [[nodiscard]] std::vector<SectionShape> step_shapes() const;
  [[nodiscard]] std::optional<RecordHeader> record_at(std::uint64_t offset) const;

  RecordSource source_;
  std::uint64_t num_steps_;
  RecordingHeader header_;
  std::uint64_t header_bytes_;
  Replacement& target_;
  Progress& progress_;
  BlockEncoder encoder_;
  SectionDecoder decoder_;
  StreamingChecksum sum_;  // of the original
  std::vector<std::byte> raw_;
  std::vector<std::byte> decoded_;
  std::uint64_t position_ = 0;  // in the original
  std::uint64_t num_blocks_ = 0;
  std::uint32_t sequence_ = 2;  // META and PROMPT stand as they are
};

std::optional<RecordHeader> Packer::record_at(std::uint64_t offset) const {
  if (offset >= source_.size()) return std::nullopt;
  return source_.try_read_header(offset);
}

void Packer::copy_front() {
  std::uint64_t end = header_bytes_;
  for (int i = 0; i < 2; ++i) end += record_bytes(record_at(end).value().stored_bytes);
  raw_.resize(end);
  source_.read(0, raw_);
  sum_.update(raw_);
  mark_packed(std::span(raw_).subspan(0, header_bytes_), true);
  target_.append(raw_);
  position_ = end;
}

void Packer::pack_next() {
  const RecordHeader record = record_at(position_).value();
  const std::uint64_t end = position_ + record_bytes(record.stored_bytes);
  switch (record.type) {
    case RecordType::kPrefill:
    case RecordType::kFinal: return pack_state(record, end);
    case RecordType::kStep: return pack_steps();
    default: break;
  }
  // The trailer, the summary and whatever else there may be.
  std::uint64_t run_end = end;
  for (auto next = record_at(run_end);
       next && next->type != RecordType::kStep && next->type != RecordType::kPrefill &&
       next->type != RecordType::kFinal;
       next = record_at(run_end)) {
    run_end += record_bytes(next->stored_bytes);
  }
  pack_plain(run_end);
}

// Of the elements that planes are made of. Coded rows mix codes and scales.
std::size_t key_width(const LayerGeometry& layer) {
  return layer.key_code ? 1 : element_size(layer.key_dtype);
}
std::size_t value_width(const LayerGeometry& layer) {
  return layer.value_code ? 1 : element_size(layer.value_dtype);
}

std::vector<SectionShape> Packer::step_shapes() const {
  const std::uint64_t stride = step_stride_bytes(header_);
  const auto shape = [](std::uint64_t bytes, std::size_t width) {
    return SectionShape{static_cast<std::uint32_t>(bytes), static_cast<std::uint32_t>(width)};
  };
  if (step_delta_bytes(header_) == 0) return {{static_cast<std::uint32_t>(stride), 1}};
  const std::uint64_t front = kRecordHeaderBytes + stats_block_bytes(header_);
  std::vector<SectionShape> shapes{{static_cast<std::uint32_t>(front), 1}};
  const Geometry& geometry = header_.geometry;
  for (std::size_t i = 0; i < geometry.num_layers(); ++i) {
    const RowOffset& row = geometry.row_offset(i);
    const bool last = i + 1 == geometry.num_layers();
    const std::uint64_t end = last ? stride - front : geometry.row_offset(i + 1).key;
    // Gaps go with the row before them: offsets are multiples of every element's size.
    shapes.push_back(shape(row.value - row.key, key_width(geometry.layer(i))));
    shapes.push_back(shape(end - row.value, value_width(geometry.layer(i))));
  }
  return shapes;
}

void Packer::pack_steps() {
  const std::uint64_t stride = step_stride_bytes(header_);
  std::uint64_t steps = 0;
  for (auto next = record_at(position_); next && next->type == RecordType::kStep;
       next = record_at(position_ + steps * stride)) {
    ++steps;
  }
  const std::vector<SectionShape> shapes =
      stride <= kMaxBlockBytes ? step_shapes() : std::vector<SectionShape>();
  if (shapes.empty() || shapes.size() > kMaxSections) return pack_plain(position_ + steps * stride);
  const std::uint64_t most = std::clamp<std::uint64_t>(
      kBlockBytes / stride, 1, std::max(kBlockSteps, kSmallBlockBytes / stride));
  while (steps > 0) {
    const std::uint64_t count = std::min(steps, most);
    pack_block(count * stride, static_cast<std::uint32_t>(count), shapes);
    steps -= count;
  }
}

void Packer::pack_state(const RecordHeader& record, std::uint64_t end) {
  const LayerGeometry& layer = header_.geometry.layer(record.index);
  const std::uint64_t steps = record.type == RecordType::kFinal ? num_steps_ : 0;
  const std::uint64_t key_at = record.offset + kRecordHeaderBytes;
  const std::uint64_t value_at =
      key_at + state_layout(layer, header_.prompt_length + steps).value().value_offset;
  const std::array<std::pair<std::uint64_t, std::size_t>, 3> parts = {
      {{key_at, 1}, {value_at, key_width(layer)}, {end, value_width(layer)}}};
  while (position_ < end) {
    const std::uint64_t piece_end = std::min(end, position_ + kBlockBytes);
    std::vector<SectionShape> shapes;
    std::uint64_t at = position_;
    for (const auto& [part_end, width] : parts) {
      const std::uint64_t until = std::min(part_end, piece_end);
      if (until <= at) continue;
      shapes.push_back({static_cast<std::uint32_t>(until - at), static_cast<std::uint32_t>(width)});
      at = until;
    }
    pack_block(piece_end - position_, 1, shapes);
  }
}

void Packer::pack_plain(std::uint64_t end) {
  while (position_ < end) {
    const std::uint64_t bytes = std::min(end - position_, kBlockBytes);
    const SectionShape shape{static_cast<std::uint32_t>(bytes), 1, false};
    pack_block(bytes, 1, std::span(&shape, 1));
  }
}

void Packer::pack_block(std::uint64_t bytes, std::uint32_t rows,
                        std::span<const SectionShape> shapes) {
  if (raw_.size() < bytes) raw_.resize(bytes);
  const std::span<std::byte> raw = std::span(raw_).subspan(0, bytes);
  source_.read(position_, raw);
  sum_.update(raw);
  const std::span<const std::byte> payload = encoder_.encode(raw, rows, shapes);
  prove(payload, raw);
  append_record(kPackedRecord, kPlaneCodec, position_, bytes, payload);
  position_ += bytes;
  ++num_blocks_;
  progress_.add(bytes);
}

void Packer::prove(std::span<const std::byte> payload, std::span<const std::byte> raw) {
  if (decoded_.size() < raw.size()) decoded_.resize(raw.size());
  const std::span<std::byte> decoded = std::span(decoded_).subspan(0, raw.size());
  const std::string problem = decode_block(payload, decoder_, decoded);
  if (problem.empty() && std::memcmp(decoded.data(), raw.data(), raw.size()) == 0) return;
  throw_corrupt(source_.path().string() + ": bytes " + std::to_string(position_) + " to " +
                std::to_string(position_ + raw.size()) +
                " do not unpack to what they were, so it stays as it is: the memory is at fault");
}

void Packer::append_record(RecordType type, std::uint8_t codec, std::uint64_t index,
                           std::uint64_t raw_bytes, std::span<const std::byte> payload) {
  RecordHeader record;
  record.type = type;
  record.codec = codec;
  record.sequence = sequence_++;
  record.index = index;
  record.offset = target_.size();
  record.stored_bytes = payload.size();
  record.raw_bytes = raw_bytes;
  record.uuid_low = uuid_low_half(header_.uuid);
  record.payload_checksum = checksum(payload);
  std::array<std::byte, kRecordHeaderBytes> bytes{};
  encode_record_header(record, bytes);
  target_.append(bytes);
  target_.append(payload);
  target_.append_padding();
}

// Reads the packed file piece by piece, as every reader will.
template <typename Take>
void for_each_piece(const PackedFile& packed, Take take) {
  std::vector<std::byte> buffer;
  for (std::uint64_t at = 0; at < packed.size();) {
    const std::uint64_t bytes = packed.piece_end(at) - at;
    if (buffer.size() < bytes) buffer.resize(bytes);
    const std::span<std::byte> piece = std::span(buffer).subspan(0, bytes);
    read_all(packed, at, piece);
    take(at, std::span<const std::byte>(piece));
    at += bytes;
  }
}

// Every block was unpacked and compared before it was written.
void prove_written(FileSystem& files, const Replacement& target, const RandomAccessFile& original,
                   Progress& progress) {
  const std::uint64_t written = target.size();
  std::uint64_t read = 0;
  std::uint64_t shown = 0;
  // In shares of the original's length, as the first half was.
  const auto take = [&](std::uint64_t bytes) {
    read += bytes;
    const auto done =
        static_cast<std::uint64_t>(static_cast<double>(original.size()) *
                                   static_cast<double>(read) / static_cast<double>(written));
    progress.add(done - shown);
    shown = done;
  };
  if (target.reads_back(take)) {
    const OpenedRecording opened = open_recording_file(files, target.temporary());
    if (opened.packed != nullptr && opened.packed->end() &&
        opened.packed->size() == original.size()) {
      return;
    }
  }
  throw_corrupt(target.temporary().string() + ": does not read back as what was packed from " +
                original.path().string() +
                ", which stays as it is: the disk or the memory is at fault");
}

void check_packable(const Recording& recording) {
  const std::string name = recording.path().string();
  if (recording.packed()) throw_usage(name + ": is packed already");
  if (!recording.complete()) {
    throw_usage(name + ": is truncated (" + recording.truncation() +
                "); only complete recordings are packed: recover it first");
  }
}

// Another file beside an original that stays has nothing to lose.
Replacement target_of(FileSystem& files, const fs::path& path, const PackOptions& options) {
  if (!options.output.empty()) return {files, options.output, /*sync=*/false};
  return {files, path, options.sync};
}

}  // namespace

PackResult pack_recording(const fs::path& path, const PackOptions& options) {
  FileSystem& files = file_system_of(options);
  std::uint64_t num_steps = 0;
  {
    const Recording recording = Recording::open(path, {.file_system = &files});
    check_packable(recording);
    recording.verify();
    num_steps = recording.num_steps();
  }
  const std::unique_ptr<RandomAccessFile> original = files.open(path);
  std::unique_ptr<RandomAccessFile> file = files.open(path);
  DecodedHeader header = read_header(*file);
  const std::uint64_t uuid_low = uuid_low_half(header.header.uuid);
  Progress progress(options);
  Replacement target = target_of(files, path, options);
  Packer(RecordSource(std::move(file), uuid_low), std::move(header), num_steps, target, progress)
      .run();
  target.close();
  prove_written(files, target, *original, progress);
  target.commit();
  return {original->size(), target.size()};
}

PackResult unpack_recording(const fs::path& path, const PackOptions& options) {
  FileSystem& files = file_system_of(options);
  const OpenedRecording opened = open_recording_file(files, path);
  if (opened.packed == nullptr) {
    static_cast<void>(read_header(*opened.file));
    throw_usage(path.string() + ": is not packed");
  }
  const PackedFile& packed = *opened.packed;
  if (!packed.end()) {
    throw_usage(path.string() +
                ": its end is missing; only complete recordings are unpacked: "
                "recover it first");
  }
  Progress progress(options);
  Replacement target = target_of(files, path, options);
  for_each_piece(packed, [&](std::uint64_t, std::span<const std::byte> piece) {
    target.append(piece);
    progress.add(piece.size());
  });
  target.close();
  const bool intact = target.reads_back([&](std::uint64_t bytes) { progress.add(bytes); });
  if (!intact || target.size() != packed.end()->original_bytes ||
      target.digest() != packed.end()->original_checksum) {
    throw_corrupt(path.string() + ": what it unpacks to is not what was packed; it stays as it is");
  }
  target.commit();
  return {packed.size(), packed.packed_bytes()};
}

}  // namespace kvtool::format
