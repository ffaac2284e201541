// Tiny recordings whose every byte of K and V follows from a formula.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "kvtool/format/reader.h"
#include "kvtool/format/writer.h"
#include "memory_file_system.h"

namespace kvtool::format {

// Two layers, one of them with odd sizes, so that rows have gaps, and mixed dtypes.
[[nodiscard]] Geometry sample_geometry();
// Fixed UUID; 3 prompt tokens, vocabulary of 50, top-2.
[[nodiscard]] RecordingHeader sample_header(SaveMode mode);
// As above with all that version 1.1 has: coded rows of every kind, a sample of 3 logits.
[[nodiscard]] RecordingHeader extended_header(SaveMode mode);
// What tests of every kind of recording run over: each save mode in 1.0 and in 1.1.
struct SampleKind {
  SaveMode mode = SaveMode::kDelta;
  bool extended = false;

  [[nodiscard]] RecordingHeader header() const {
    return extended ? extended_header(mode) : sample_header(mode);
  }
  [[nodiscard]] std::string name() const {
    return std::string(save_mode_name(mode)) + (extended ? "_1_1" : "");
  }
};
inline constexpr std::array kSampleKinds = {SampleKind{SaveMode::kDelta},
                                            SampleKind{SaveMode::kPrefillOnly},
                                            SampleKind{SaveMode::kFinalOnly},
                                            SampleKind{SaveMode::kDelta, true},
                                            SampleKind{SaveMode::kPrefillOnly, true},
                                            SampleKind{SaveMode::kFinalOnly, true}};

// As many steps as tests of a sample have it take, unless they say otherwise.
inline constexpr std::uint64_t kSteps = 3;

[[nodiscard]] nlohmann::json sample_meta();
[[nodiscard]] nlohmann::json sample_summary(std::uint64_t steps);
[[nodiscard]] std::vector<std::int32_t> sample_prompt(const RecordingHeader& header);
[[nodiscard]] StepStats sample_prefill_stats(const RecordingHeader& header);
[[nodiscard]] StepStats sample_stats(const RecordingHeader& header, std::uint64_t step);

// [heads, positions, dim] of positions 0 to `positions`.
[[nodiscard]] Bytes sample_key(const Geometry& geometry, std::uint32_t layer,
                               std::uint64_t positions);
[[nodiscard]] Bytes sample_value(const Geometry& geometry, std::uint32_t layer,
                                 std::uint64_t positions);
[[nodiscard]] Bytes sample_delta(const Geometry& geometry, std::uint64_t position);

// Where the file ends after each part.
struct SampleOffsets {
  std::uint64_t prompt_end = 0;
  std::uint64_t prefill_end = 0;
  std::vector<std::uint64_t> step_ends;
  std::uint64_t data_end = 0;  // where CHECKSUMS starts
  std::uint64_t file_bytes = 0;
};

SampleOffsets write_sample(FileSystem& files, const std::filesystem::path& path,
                           const RecordingHeader& header, std::uint64_t steps, bool sync = false);

// The finished recording's bytes.
[[nodiscard]] Bytes sample_bytes(const RecordingHeader& header, std::uint64_t steps,
                                 SampleOffsets* offsets = nullptr);
[[nodiscard]] Bytes sample_bytes(SaveMode mode, std::uint64_t steps,
                                 SampleOffsets* offsets = nullptr);

// The same, packed.
[[nodiscard]] Bytes packed_bytes(const Bytes& bytes);
[[nodiscard]] Bytes packed_sample(SaveMode mode, std::uint64_t steps);

[[nodiscard]] Bytes bytes_of(std::initializer_list<int> values);
[[nodiscard]] Bytes first_bytes(const Bytes& bytes, std::uint64_t count);

[[nodiscard]] Recording open_bytes(const Bytes& bytes, const std::string& name = "x.kvc");

// Everything the recording offers equals the sample's first `steps` steps.
void expect_sample(const Recording& recording, std::uint64_t steps);

}  // namespace kvtool::format
