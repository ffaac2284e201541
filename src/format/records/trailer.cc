#include "trailer.h"

#include <array>

#include "format/checksum.h"
#include "kvtool/base/checked.h"
#include "kvtool/base/error.h"

namespace kvtool::format {
namespace {

struct FoundTrailer {
  RecordHeader record;
  Trailer trailer;
};

std::optional<FoundTrailer> find_trailer(const RecordSource& source, const RecordingHeader& header,
                                         std::uint64_t first_record) {
  if (source.size() < first_record + kTrailerBytes) return std::nullopt;
  const std::uint64_t offset = source.size() - kTrailerBytes;
  std::array<std::byte, kTrailerBytes> bytes{};
  source.read(offset, bytes);
  const std::span<const std::byte> all(bytes);
  const auto record = decode_record_header(all.subspan(0, kRecordHeaderBytes));
  const auto payload = all.subspan(kRecordHeaderBytes);
  if (!record || record->type != RecordType::kTrailer || record->offset != offset ||
      record->uuid_low != uuid_low_half(header.uuid) ||
      record->stored_bytes != kTrailerPayloadBytes ||
      record->payload_checksum != checksum(payload)) {
    return std::nullopt;
  }
  return FoundTrailer{*record, decode_trailer(payload)};
}

// Walks the promised runs of records from front to back: each must start where
// the one before it ends or later (unknown records may stand between runs).
class RunChecker {
 public:
  RunChecker(const RecordSource& source, const FoundTrailer& found, std::uint64_t start)
      : source_(source), found_(found), end_(start) {}

  void run(std::uint64_t offset, std::optional<std::uint64_t> bytes, const char* what) {
    const bool fits = bytes && *bytes <= found_.record.offset;
    if (!fits || offset < end_ || offset % kRecordAlignment != 0 ||
        offset > found_.record.offset - *bytes) {
      source_.throw_damaged(found_.record, std::string("it places ") + what + " at byte " +
                                               std::to_string(offset) + ", where it cannot be");
    }
    end_ = offset + *bytes;
  }

  void none(std::uint64_t offset, const char* what) const {
    if (offset == 0) return;
    source_.throw_damaged(found_.record,
                          std::string("it places ") + what + ", which this recording cannot have");
  }

 private:
  const RecordSource& source_;
  const FoundTrailer& found_;
  std::uint64_t end_;
};

// PREFILL or FINAL records of all layers; empty when they fit into no file.
std::optional<std::uint64_t> states_bytes(const Geometry& geometry, std::uint64_t positions) {
  std::uint64_t total = 0;
  for (const LayerGeometry& layer : geometry.layers()) {
    const auto layout = state_layout(layer, positions);
    if (!layout) return std::nullopt;
    total += record_bytes(layout->payload_bytes);
    if (total > kMaxSize) return std::nullopt;
  }
  return total;
}

void check_runs(const RecordSource& source, const RecordingHeader& header,
                const FoundTrailer& found, std::uint64_t prompt_end) {
  const Trailer& trailer = found.trailer;
  const bool final_only = header.save_mode == SaveMode::kFinalOnly;
  RunChecker checker(source, found, prompt_end);
  if (final_only) {
    checker.none(trailer.first_prefill, "PREFILL");
  } else {
    checker.run(trailer.first_prefill, states_bytes(header.geometry, header.prompt_length),
                "PREFILL");
  }
  checker.run(trailer.prefill_end, record_bytes(stats_block_bytes(header)), "PREFILL_END");
  if (trailer.num_steps == 0) {
    checker.none(trailer.first_step, "STEP");
  } else {
    checker.run(trailer.first_step, checked_mul(trailer.num_steps, step_stride_bytes(header)),
                "STEP");
  }
  if (final_only) {
    checker.run(trailer.first_final,
                states_bytes(header.geometry, header.prompt_length + trailer.num_steps), "FINAL");
  } else {
    checker.none(trailer.first_final, "FINAL");
  }
  checker.run(trailer.summary, kRecordHeaderBytes, "SUMMARY");
}

}  // namespace

std::optional<RecordIndex> index_from_trailer(const RecordSource& source,
                                              const RecordingHeader& header,
                                              std::uint64_t first_record) {
  const auto found = find_trailer(source, header, first_record);
  if (!found) return std::nullopt;
  source.check_codec(found->record);
  if (found->trailer.file_bytes != source.size()) {
    source.throw_damaged(found->record, "it says that the file has " +
                                            std::to_string(found->trailer.file_bytes) +
                                            " bytes, but it has " + std::to_string(source.size()));
  }
  if (found->trailer.num_steps > kMaxSteps) {
    source.throw_damaged(found->record, "it counts " + std::to_string(found->trailer.num_steps) +
                                            " steps, at most " + std::to_string(kMaxSteps) +
                                            " are allowed");
  }
  const RecordHeader meta = source.read_header(first_record, RecordType::kMeta, 0, std::nullopt);
  RecordIndex index;
  index.prompt = first_record + record_bytes(meta.stored_bytes);
  const std::uint64_t prompt_bytes = record_bytes(4 * header.prompt_length);
  if (prompt_bytes > source.size() - index.prompt) {
    source.throw_damaged_at(index.prompt, "PROMPT runs past the end of the file");
  }
  check_runs(source, header, *found, index.prompt + prompt_bytes);
  index.trailer = found->trailer;
  index.num_prefills = header.save_mode == SaveMode::kFinalOnly ? 0 : header.geometry.num_layers();
  index.num_finals = header.save_mode == SaveMode::kFinalOnly ? header.geometry.num_layers() : 0;
  index.complete = true;
  return index;
}

}  // namespace kvtool::format
