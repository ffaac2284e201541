// Finds the recordings that a replay compares with, and groups them into the
// batches in which they were recorded.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kvtool/cli/run_meta.h"

namespace kvtool::cli {

// The recordings of one model: a folder with .kvc files.
struct ReferenceFolder {
  std::string slug;  // the folder's name: REF_DIR/LABEL/MODEL_SLUG
  std::filesystem::path path;
};

struct ReferenceSource {
  std::optional<std::filesystem::path> file;  // set: this one recording of folders[0]
  std::vector<ReferenceFolder> folders;       // not empty
  // The path named the folder with the recordings itself, so that its name
  // need not be a model slug.
  bool direct = false;
};

// `from` is a label below ref_dir, or the path of a recording, of a folder with
// recordings, or of one above it. Error kUsage that lists what is there; for a
// label that outputs_dir/*/kv_caches holds, the message has the command for it.
[[nodiscard]] ReferenceSource find_reference(const std::string& from,
                                             const std::filesystem::path& ref_dir,
                                             const std::filesystem::path& outputs_dir = "outputs");

// What the planning of a replay needs of one recording.
struct ReferenceEntry {
  std::filesystem::path path;
  std::uint64_t batch_size = 1;
  std::uint64_t input_index = 0;
  std::uint64_t prompt_length = 0;
  std::uint64_t num_steps = 0;
  bool has_prefill = true;
  std::optional<RunMeta> run;
  std::string model_id;
  std::string model_slug;
  std::string device_label;
  nlohmann::json prompt_meta;  // META.prompt, or null
  std::vector<std::int32_t> prompt_ids;
  bool selected = true;  // false: present only because others ran in its batch
};

// Errors as Recording::open(); kCorrupt for a META that contradicts itself.
[[nodiscard]] ReferenceEntry read_reference_entry(const std::filesystem::path& path);

struct ReferenceSelection {
  std::optional<std::uint64_t> batch_size;  // --from-batch-size
  std::vector<std::uint64_t> batch_sizes;   // --batch-size: chosen among several
  std::optional<std::uint64_t> num_inputs;  // inputs 0 to num_inputs - 1 must be there
};

// One batch size after the other: the entries of each. Unfinished (.partial)
// files and inputs that were not asked for are entries with selected == false.
// Errors: kUsage for a missing input or an ambiguous batch size, listing what
// there is; kCorrupt for a selected recording that ends before its first token.
[[nodiscard]] std::vector<std::vector<ReferenceEntry>> select_references(
    const ReferenceSource& source, const ReferenceFolder& folder,
    const ReferenceSelection& selection);

enum class BatchShape {
  kRecorded,  // what ran together runs together
  kSingle,    // one input at a time
  kParallel,  // many inputs for one parallel replay
};

struct PlannedRow {
  std::size_t entry = 0;  // index into the entries
  bool stand_in = false;  // takes the place of a recording that is not there
};

struct PlannedBatch {
  std::vector<PlannedRow> rows;  // in recorded order
  std::uint64_t padded_length = 0;
  std::uint64_t cache_capacity = 0;
  std::vector<std::string> missing;  // file names that stand-ins replace
};

// Every batch that holds a selected entry, ordered by its first input.
// Error kCorrupt for two recordings of one row and for rows that disagree
// about the shape of their batch.
[[nodiscard]] std::vector<PlannedBatch> plan_batches(std::span<const ReferenceEntry> entries,
                                                     BatchShape shape);

}  // namespace kvtool::cli
