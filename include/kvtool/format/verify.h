// Checks every byte of recordings and lists every damaged record, not only the
// first: what `kvtool verify` does. Damage is told to a layer's K or V where the
// recording has CHECKSUMS (docs/format.md).
//
// Files are read in blocks of kVerifyBlockBytes; memory does not grow with
// their size, only with the number of damaged records. A packed recording is checked as
// what it was before, and as it is stored; each thread holds an unpacked piece and buffers
// to unpack one: of a file that kvtool packed 4 MiB each, by the format at most 64 MiB.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "kvtool/base/file.h"
#include "kvtool/format/recording.h"

namespace kvtool::format {

// Largest single read.
inline constexpr std::size_t kVerifyBlockBytes = 256 * 1024;

enum class FileState : std::uint8_t {
  kIntact,      // complete, and every checksum is right
  kTruncated,   // right up to where it ends early
  kDamaged,     // some records are wrong
  kUnreadable,  // no recording, or nothing of it can be read
};
// "intact", "truncated", "damaged", "unreadable".
[[nodiscard]] std::string_view file_state_name(FileState state);

// One layer's K or V.
struct DamagedColumn {
  std::uint32_t layer = 0;
  bool is_value = false;

  friend bool operator==(const DamagedColumn&, const DamagedColumn&) = default;
};

// One damaged record, or several steps in a row that are damaged alike.
struct Damage {
  // Of a packed recording: in the file that it was before, unless in_packed.
  std::uint64_t offset_bytes = 0;
  std::uint64_t length_bytes = 0;
  std::string record;   // "STEP 12", "PREFILL of layer 3"
  std::string problem;  // "the payload's checksum is wrong"
  std::optional<std::uint64_t> first_step = {};
  std::optional<std::uint64_t> last_step = {};
  // Which K and V. Empty and not `located`: the recording has no usable CHECKSUMS for it.
  std::vector<DamagedColumn> columns = {};
  bool located = false;
  // Several steps of one group are damaged: each column is wrong in at least one of them.
  bool shared = false;
  bool statistics = false;  // the statistics block is wrong
  // A place in the packed file, whose damage harms no record or several, which are listed too.
  bool in_packed = false;
  // Positions of the sequence whose K/V is concerned.
  std::optional<std::uint64_t> first_position = {};
  std::optional<std::uint64_t> last_position = {};
};
// "STEP 12-14: layer 3, V, positions 140-142".
[[nodiscard]] std::string describe_place(const Damage& damage);

struct FileVerdict {
  std::filesystem::path path;
  FileState state = FileState::kUnreadable;
  std::string error = {};   // kUnreadable: why
  std::uint64_t bytes = 0;  // of the file, packed or not
  bool packed = false;
  std::optional<SaveMode> save_mode = {};
  bool complete = false;  // ends with a TRAILER
  // Where and how it ends early; empty when complete. Of a packed recording that lacks only the
  // end of the packing, both are set.
  std::string truncation = {};
  std::uint64_t num_steps = 0;  // whole ones, damaged ones included
  // Steps before the first damage: what `recover` keeps. None without the whole prefill.
  std::uint64_t intact_steps = 0;
  std::uint64_t num_records = 0;  // whole ones
  std::vector<Damage> damages = {};
};

struct VerifyOptions {
  FileSystem* file_system = nullptr;  // not owned; null means posix_file_system()
  unsigned threads = 0;               // 0: one for each core
  // After every block of records, from any thread but never from two at once. An exception ends
  // the verification with that error.
  std::function<void(std::uint64_t bytes_done)> on_progress = {};
  // In the order of `paths`, as soon as a file and those before it are done; called likewise.
  std::function<void(const FileVerdict&)> on_file = {};
};

// Several files, and several parts of one file, at the same time. What is wrong
// with a file is in its verdict, not an error.
[[nodiscard]] std::vector<FileVerdict> verify_files(const std::vector<std::filesystem::path>& paths,
                                                    const VerifyOptions& options = {});

}  // namespace kvtool::format
