// Makes a complete recording out of a truncated or damaged one: what `kvtool
// recover` does. The input is only read.
//
// A packed recording stays packed when it is intact; otherwise the output is not packed.
//
// Memory: a block of the input, one step, and a few numbers for each damaged record.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "kvtool/base/file.h"
#include "kvtool/format/verify.h"

namespace kvtool::format {

// Follows the output's name while it is not verified; it is no recording's suffix, since the
// input of `recover x.kvc.partial -o x.kvc` has the writer's.
inline constexpr std::string_view kRecoveringSuffix = ".recovering";
// Follows the output's name for what cannot stand in a recording any more.
inline constexpr std::string_view kSalvagedSuffix = ".salvaged.safetensors";

struct RecoverOptions {
  FileSystem* file_system = nullptr;  // not owned; null means posix_file_system()
  bool salvage = false;               // also write what is intact behind the damage
  std::optional<Uuid> uuid = {};      // of the output; random when empty
  // As VerifyOptions::on_progress, over reading, copying and verifying.
  std::function<void(std::uint64_t bytes_done)> on_progress = {};
};

struct RecoverResult {
  FileVerdict input;
  // A recording was written, under the name that was asked for. False only with `salvage`.
  bool written = false;
  std::uint64_t steps = 0;       // it holds
  std::uint64_t bytes = 0;       // of the output
  std::string uuid = {};         // of the output: the input's for an unchanged copy
  std::string source_uuid = {};  // of the input
  // What the input held, or should have held, that the output does not. Empty: nothing was lost.
  std::vector<std::string> lost = {};
  std::filesystem::path salvaged = {};  // empty: nothing was salvaged
  std::uint64_t salvaged_steps = 0;     // with their K/V
  std::uint64_t salvaged_tensors = 0;
};

// Writes the longest intact prefix of `input` as a complete recording, an intact
// input as it is. `output` and what is salvaged appear only whole and verified; an
// older `output` is replaced. Errors: kCorrupt when nothing can be recovered, kIncompatible
// for records that this version cannot rebuild, kUsage when both names are one file,
// kEnvironment for I/O.
[[nodiscard]] RecoverResult recover_recording(const std::filesystem::path& input,
                                              const std::filesystem::path& output,
                                              const RecoverOptions& options = {});

}  // namespace kvtool::format
