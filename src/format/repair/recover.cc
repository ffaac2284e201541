#include "kvtool/format/recover.h"

#include <algorithm>
#include <array>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "damage_place.h"
#include "file_scan.h"
#include "format/bounded_json.h"
#include "format/bytes.h"
#include "format/checksum.h"
#include "format/layout.h"
#include "format/records/block_reader.h"
#include "format/records/checksums_record.h"
#include "format/task_check.h"
#include "kvtool/base/checked.h"
#include "kvtool/base/error.h"
#include "kvtool/base/setting.h"
#include "salvage.h"

namespace kvtool::format {
namespace {

std::filesystem::path with_suffix(std::filesystem::path path, std::string_view suffix) {
  path += suffix;
  return path;
}

// One stretch of the input, zeros behind it.
struct Piece {
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
  std::uint64_t zeros = 0;
  bool is_value = false;
};

// Appends records of the output; the payloads come from memory or from the input.
class RecordAppender {
 public:
  RecordAppender(const RecordSource& source, const RecordingHeader& header, WritableFile& file)
      : source_(source), uuid_low_(uuid_low_half(header.uuid)), file_(file), block_(make_block()) {
    append(encode_header(header));
  }

  [[nodiscard]] std::uint64_t offset() const { return offset_; }
  [[nodiscard]] std::uint64_t records() const { return sequence_; }

  void add(RecordType type, std::uint64_t index, std::span<const std::byte> payload) {
    append_header(type, index, payload.size(), checksum(payload));
    append(payload);
    append_zeros(align_up(offset_, kRecordAlignment) - offset_);
  }

  struct Sums {
    std::uint64_t key = 0;
    std::uint64_t value = 0;
  };
  // Reads the pieces twice, since the checksum stands before them.
  Sums add(RecordType type, std::uint64_t index, const std::vector<Piece>& pieces) {
    StreamingChecksum all;
    StreamingChecksum key;
    StreamingChecksum value;
    std::uint64_t bytes = 0;
    for (const Piece& piece : pieces) {
      for_each_block(piece, [&](std::span<const std::byte> part, bool is_gap) {
        all.update(part);
        if (!is_gap) (piece.is_value ? value : key).update(part);
        bytes += part.size();
      });
    }
    append_header(type, index, bytes, all.digest());
    for (const Piece& piece : pieces) {
      for_each_block(piece, [&](std::span<const std::byte> part, bool) { append(part); });
    }
    append_zeros(align_up(offset_, kRecordAlignment) - offset_);
    return {key.digest(), value.digest()};
  }

 private:
  template <typename Use>
  void for_each_block(const Piece& piece, Use use) {
    for (std::uint64_t done = 0; done < piece.bytes;) {
      const auto part =
          std::span(block_).subspan(0, std::min<std::uint64_t>(block_.size(), piece.bytes - done));
      source_.read(piece.offset + done, part);
      use(part, false);
      done += part.size();
    }
    const std::array<std::byte, kRecordAlignment> zeros{};
    if (piece.zeros > 0) use(std::span(zeros).subspan(0, piece.zeros), true);
  }

  void append_header(RecordType type, std::uint64_t index, std::uint64_t bytes, std::uint64_t sum) {
    RecordHeader record;
    record.type = type;
    record.sequence = sequence_++;
    record.index = index;
    record.offset = offset_;
    record.stored_bytes = record.raw_bytes = bytes;
    record.uuid_low = uuid_low_;
    record.payload_checksum = sum;
    std::array<std::byte, kRecordHeaderBytes> header{};
    encode_record_header(record, header);
    append(header);
  }
  void append_zeros(std::uint64_t count) {
    const std::array<std::byte, kRecordAlignment> zeros{};
    append(std::span(zeros).subspan(0, count));
  }
  void append(std::span<const std::byte> data) {
    file_.append(data);
    offset_ += data.size();
  }

  const RecordSource& source_;
  std::uint64_t uuid_low_;
  WritableFile& file_;
  ReadBlock block_;
  std::uint64_t offset_ = 0;
  std::uint32_t sequence_ = 0;
};

class Recovery {
 public:
  Recovery(const std::filesystem::path& input, const std::filesystem::path& output,
           const RecoverOptions& options)
      : input_(input),
        output_(output),
        options_(options),
        files_(options.file_system != nullptr ? *options.file_system : posix_file_system()),
        scan_(files_, input, 1),
        header_(scan_.header()) {}

  RecoverResult run();

 private:
  void scan();
  void copy(const RandomAccessFile& from);
  void write_prefix();
  void salvage();
  [[nodiscard]] std::string obstacle() const;
  void note_losses();
  void write_recording(WritableFile& file);
  void add_states(RecordAppender& records, RecordType type, std::uint64_t positions,
                  ChecksumsBuilder& checksums);
  void add_steps(RecordAppender& records, ChecksumsBuilder& checksums);
  [[nodiscard]] nlohmann::json summary() const;
  [[nodiscard]] std::optional<nlohmann::json> read_json(RecordType type) const;
  [[nodiscard]] std::vector<std::byte> read_payload(const RecordHeader& record) const;
  void publish(const std::filesystem::path& target, bool recording,
               const std::function<void(WritableFile&)>& write);
  void verify(const std::filesystem::path& path) const;
  void progress(std::uint64_t bytes) {
    bytes_done_ += bytes;
    if (options_.on_progress) options_.on_progress(bytes_done_);
  }

  const std::filesystem::path& input_;
  const std::filesystem::path& output_;
  const RecoverOptions& options_;
  FileSystem& files_;
  FileScan scan_;
  RecordingHeader header_;  // of the output
  ScanResult found_;
  RecoverResult result_;
  std::uint64_t bytes_done_ = 0;
};

RecoverResult Recovery::run() {
  scan();
  result_.source_uuid = to_string(header_.uuid);
  if (result_.input.state == FileState::kIntact) {
    copy(*files_.open(input_));
    return std::move(result_);
  }
  if (found_.bad.empty() && found_.complete) {
    // Only the packing is damaged: the original is all there.
    copy(scan_.source().file());
    return std::move(result_);
  }
  if (found_.unknown_records > 0) {
    throw_incompatible(input_.string() +
                       ": holds records of types that this kvtool cannot rebuild (" +
                       std::to_string(found_.unknown_records) +
                       "): only an intact file of this kind can be copied");
  }
  header_.uuid = options_.uuid.value_or(random_uuid());
  const std::string why = obstacle();
  if (why.empty()) {
    write_prefix();
  } else {
    result_.lost.push_back("the recording: " + why);
  }
  const bool complete_prefix = why.empty() && result_.steps == found_.num_steps;
  if (options_.salvage && !complete_prefix) salvage();
  if (!result_.written && result_.salvaged.empty()) {
    throw_corrupt(input_.string() + ": nothing can be recovered: " + why +
                  (options_.salvage ? std::string()
                                    : ". " + setting("salvage") +
                                          " writes those layers and steps that are intact to a "
                                          "safetensors file"));
  }
  return std::move(result_);
}

void Recovery::scan() {
  ReadBlock buffer = make_block();
  while (const auto task = scan_.next()) {
    scan_.add(check_task(scan_, *task, buffer));
    progress(scan_.stored_share(*task));
  }
  found_ = scan_.finish();
  result_.input = make_verdict(scan_, found_);
}

// Why no recording can be made of it; empty when one can.
std::string Recovery::obstacle() const {
  const bool final_only = header_.save_mode == SaveMode::kFinalOnly;
  const auto state = [&](RecordType type, std::uint64_t index) -> std::string {
    RecordHeader record;
    record.type = type;
    record.index = index;
    if (found_.find(type, index) != nullptr) return "";
    const bool there = found_.bad_keys.contains({type, index});
    return describe_record(record) +
           (there ? " is damaged"
                  : " is missing" + (found_.complete ? "" : ": " + found_.truncation));
  };
  for (const RecordType type : {RecordType::kPrompt, RecordType::kPrefillEnd}) {
    if (std::string problem = state(type, 0); !problem.empty()) return problem;
  }
  const RecordType type = final_only ? RecordType::kFinal : RecordType::kPrefill;
  for (std::uint64_t i = 0; i < header_.geometry.num_layers(); ++i) {
    std::string problem = state(type, i);
    if (problem.empty()) continue;
    if (final_only) problem += ", and a final_only recording has its only K/V there";
    return problem;
  }
  return "";
}

void Recovery::note_losses() {
  const std::uint64_t lost_steps = found_.num_steps - result_.steps;
  if (lost_steps > 0) {
    result_.lost.push_back("steps " + std::to_string(result_.steps) + " to " +
                           std::to_string(found_.num_steps - 1) + " (" +
                           std::to_string(lost_steps) + ")");
  }
  if (!found_.complete && found_.find(RecordType::kSummary) == nullptr) {
    result_.lost.push_back("what stood behind the end: " + found_.truncation);
  } else if (found_.find(RecordType::kSummary) == nullptr) {
    result_.lost.push_back("SUMMARY");
  }
  if (found_.find(RecordType::kMeta) == nullptr) {
    result_.lost.push_back("META (model, device and settings)");
  }
}

void Recovery::copy(const RandomAccessFile& from) {
  publish(output_, true, [&](WritableFile& file) {
    ReadBlock block = make_block();
    for (std::uint64_t done = 0; done < from.size();) {
      const auto part =
          std::span(block).subspan(0, std::min<std::uint64_t>(block.size(), from.size() - done));
      if (from.read(done, part) != part.size()) {
        throw_corrupt(input_.string() + ": became shorter while it was read");
      }
      file.append(part);
      done += part.size();
      progress(part.size());
    }
    result_.bytes = from.size();
  });
  result_.written = true;
  result_.steps = found_.num_steps;
  result_.uuid = result_.source_uuid;
}

void Recovery::write_prefix() {
  result_.steps = found_.intact_steps;
  result_.uuid = to_string(header_.uuid);
  note_losses();
  publish(output_, true, [&](WritableFile& file) { write_recording(file); });
  result_.written = true;
}

std::vector<std::byte> Recovery::read_payload(const RecordHeader& record) const {
  std::vector<std::byte> payload(record.stored_bytes);
  scan_.source().read_payload(record, payload);
  return payload;
}

std::optional<nlohmann::json> Recovery::read_json(RecordType type) const {
  const RecordHeader* record = found_.find(type);
  if (record == nullptr) return std::nullopt;
  const std::vector<std::byte> text = read_payload(*record);
  return parse_json_object({reinterpret_cast<const char*>(text.data()), text.size()});
}

nlohmann::json Recovery::summary() const {
  nlohmann::json summary = nlohmann::json::object();
  // What the original says of tokens and text is true only of all its steps.
  if (result_.steps == found_.num_steps)
    summary = read_json(RecordType::kSummary).value_or(summary);
  if (!summary.contains("stop_reason")) summary["stop_reason"] = "recovered";
  summary["tokens"] = result_.steps + 1;
  summary["steps"] = result_.steps;
  summary["recovered_from"] = {{"uuid", result_.source_uuid},
                               {"file", input_.filename().string()},
                               {"state", file_state_name(result_.input.state)},
                               {"steps", found_.num_steps},
                               {"lost", result_.lost}};
  return summary;
}

void Recovery::add_states(RecordAppender& records, RecordType type, std::uint64_t positions,
                          ChecksumsBuilder& checksums) {
  const std::uint64_t held =
      header_.prompt_length + (type == RecordType::kFinal ? found_.num_steps : 0);
  for (std::uint32_t i = 0; i < header_.geometry.num_layers(); ++i) {
    const LayerGeometry& layer = header_.geometry.layer(i);
    const std::uint64_t heads = layer.num_kv_heads;
    const std::uint64_t start = found_.find(type, i)->offset + kRecordHeaderBytes;
    const StateLayout from = state_layout(layer, held).value();
    const StateLayout to = state_layout(layer, positions).value();
    std::vector<Piece> pieces;
    // The state at an earlier step is the first positions of each head.
    const auto add = [&](std::uint64_t offset, std::uint64_t row, bool is_value) {
      if (positions == held) {
        pieces.push_back({offset, heads * held * row, 0, is_value});
        return;
      }
      for (std::uint64_t head = 0; head < heads; ++head) {
        pieces.push_back({offset + head * held * row, positions * row, 0, is_value});
      }
    };
    add(start, layer.key_bytes() / heads, false);
    pieces.back().zeros = to.value_offset - to.key_bytes;
    add(start + from.value_offset, layer.value_bytes() / heads, true);
    const RecordAppender::Sums sums = records.add(type, i, pieces);
    checksums.set_state(i, sums.key, sums.value);
    progress(to.payload_bytes);
  }
}

void Recovery::add_steps(RecordAppender& records, ChecksumsBuilder& checksums) {
  const std::uint64_t stride = step_stride_bytes(header_);
  const std::uint64_t stats_bytes = stats_block_bytes(header_);
  std::vector<std::byte> payload(step_payload_bytes(header_));
  for (std::uint64_t step = 0; step < result_.steps; ++step) {
    const std::uint64_t offset = found_.first_step + step * stride;
    scan_.source().read_payload(
        scan_.source().read_header(offset, RecordType::kStep, step, payload.size()), payload);
    records.add(RecordType::kStep, step, payload);
    if (header_.save_mode == SaveMode::kDelta) {
      checksums.add_step(header_.geometry, std::span(payload).subspan(stats_bytes));
    }
    progress(stride);
  }
}

void Recovery::write_recording(WritableFile& file) {
  RecordAppender records(scan_.source(), header_, file);
  ChecksumsBuilder checksums(header_.geometry);
  const auto whole = [&](RecordType type) {
    const RecordHeader* record = found_.find(type);
    records.add(type, 0, {Piece{record->offset + kRecordHeaderBytes, record->stored_bytes}});
  };
  const auto json = [&](RecordType type, const nlohmann::json& value) {
    const std::string text = dump_json_object(value);
    records.add(type, 0, std::as_bytes(std::span(text)));
  };
  if (found_.find(RecordType::kMeta) != nullptr) {
    whole(RecordType::kMeta);
  } else {
    json(RecordType::kMeta, nlohmann::json::object());
  }
  whole(RecordType::kPrompt);
  Trailer index;
  const bool final_only = header_.save_mode == SaveMode::kFinalOnly;
  if (!final_only) {
    index.first_prefill = records.offset();
    add_states(records, RecordType::kPrefill, header_.prompt_length, checksums);
  }
  index.prefill_end = records.offset();
  whole(RecordType::kPrefillEnd);
  index.num_steps = result_.steps;
  index.first_step = result_.steps > 0 ? records.offset() : 0;
  add_steps(records, checksums);
  if (final_only) {
    index.first_final = records.offset();
    add_states(records, RecordType::kFinal, header_.prompt_length + result_.steps, checksums);
  }
  records.add(RecordType::kChecksums, 0, checksums.finish());
  index.summary = records.offset();
  json(RecordType::kSummary, summary());
  index.file_bytes = result_.bytes = records.offset() + kTrailerBytes;
  index.num_records = records.records() + 1;
  std::array<std::byte, kTrailerPayloadBytes> payload{};
  encode_trailer(index, payload);
  records.add(RecordType::kTrailer, 0, payload);
}

void Recovery::salvage() {
  const SalvageRequest request{scan_, found_, result_.input, result_.steps, !result_.written};
  if (count_salvage(request).tensors == 0) return;
  const std::filesystem::path target = with_suffix(output_, kSalvagedSuffix);
  publish(target, false, [&](WritableFile& file) {
    const Salvaged salvaged = write_salvage(request, file);
    result_.salvaged_steps = salvaged.steps;
    result_.salvaged_tensors = salvaged.tensors;
  });
  result_.salvaged = target;
}

void Recovery::publish(const std::filesystem::path& target, bool recording,
                       const std::function<void(WritableFile&)>& write) {
  const std::filesystem::path temporary = with_suffix(target, kRecoveringSuffix);
  if (target.has_parent_path()) files_.create_directories(target.parent_path());
  files_.remove(temporary);
  try {
    const std::unique_ptr<WritableFile> file = files_.create(temporary);
    write(*file);
    file->sync();
    file->close();
    if (recording) verify(temporary);
    files_.rename(temporary, target);
    files_.sync_directory(target.has_parent_path() ? target.parent_path() : ".");
  } catch (...) {
    try {
      files_.remove(temporary);
    } catch (const Error&) {
      // The first failure is the one to report.
    }
    throw;
  }
}

void Recovery::verify(const std::filesystem::path& path) const {
  VerifyOptions options{.file_system = &files_, .threads = 1};
  const std::uint64_t before = bytes_done_;
  options.on_progress = [&](std::uint64_t bytes) {
    if (options_.on_progress) options_.on_progress(before + bytes);
  };
  const FileVerdict verdict = verify_files({path}, options).front();
  if (verdict.state == FileState::kIntact) return;
  throw_environment(path.string() + ": what was written does not verify (" +
                    std::string(file_state_name(verdict.state)) +
                    "): the disk or the memory of this machine may be faulty");
}

}  // namespace

RecoverResult recover_recording(const std::filesystem::path& input,
                                const std::filesystem::path& output,
                                const RecoverOptions& options) {
  if (input.lexically_normal() == output.lexically_normal()) {
    throw_usage(output.string() + " is the input: choose another name");
  }
  std::optional<Recovery> recovery;
  try {
    recovery.emplace(input, output, options);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kCorrupt) throw;
    throw_corrupt(std::string(error.what()) + "; without its header nothing can be recovered");
  }
  return recovery->run();
}

}  // namespace kvtool::format
