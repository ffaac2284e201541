// Writes one recording. Records are appended in the order of the calls below
// and no byte is rewritten. The file grows under `path` + kPartialSuffix and
// gets its final name in finish(), so a name without the suffix is always a
// complete recording. A writer that is destroyed before finish() leaves the
// partial file where it is: it is readable up to the last whole record. The partial
// file is locked, so that no name ever has two writers.
//
// Nothing is buffered: a step is one write, and belongs to the operating system
// when write_step() returns. See docs/durability.md for what outlives what.
//
// Not thread-safe; one thread at a time may call. Errors: kEnvironment for
// I/O (disk full, permission), kMisuse for calls out of order or wrong sizes, kUsage for
// what no recording can hold: a header out of its limits, too much JSON, too many steps.
// After an error the writer accepts nothing more.
#pragma once

#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <span>

#include "kvtool/base/file.h"
#include "kvtool/format/recording.h"

namespace kvtool::format {

inline constexpr std::string_view kRecordingSuffix = ".kvc";
inline constexpr std::string_view kPartialSuffix = ".partial";  // batch1_input0.kvc.partial

struct WriterOptions {
  FileSystem* file_system = nullptr;  // not owned; null means posix_file_system()
  // Durable against power loss: the file before the rename, its folder after it, and
  // the folder's parents when the file is begun. The final name is then always whole.
  bool sync = false;
  // With `sync`: also the file after every so many steps; 0 for the end only.
  std::uint64_t sync_every_steps = 0;
};

class RecordingWriter {
 public:
  // Creates parent directories and the partial file; a partial file that a dead
  // writer left is replaced, a finished recording stays until finish(). Error
  // kEnvironment when another writer of this name is alive.
  // `meta` is a JSON object; `prompt` holds header.prompt_length token ids.
  RecordingWriter(std::filesystem::path path, RecordingHeader header, const nlohmann::json& meta,
                  std::span<const std::int32_t> prompt, WriterOptions options = {});
  ~RecordingWriter();
  RecordingWriter(const RecordingWriter&) = delete;
  RecordingWriter& operator=(const RecordingWriter&) = delete;

  // Prompt K/V of one layer, layers in ascending order (not in kFinalOnly).
  // key: [num_kv_heads, prompt_length, key_dim], value likewise, contiguous.
  void write_prefill_layer(std::uint32_t layer, std::span<const std::byte> key,
                           std::span<const std::byte> value);
  // Ends the prefill; stats.token is token 0.
  void write_prefill_end(const StepStats& stats);
  // The next step. `delta` has geometry.delta_bytes() in kDelta and is empty otherwise.
  void write_step(const StepStats& stats, std::span<const std::byte> delta);
  // kFinalOnly, after the last step: K/V of all prompt_length + steps positions.
  void write_final_layer(std::uint32_t layer, std::span<const std::byte> key,
                         std::span<const std::byte> value);
  // Writes SUMMARY and TRAILER, closes, renames. `summary` is a JSON object.
  void finish(const nlohmann::json& summary);

  [[nodiscard]] std::uint64_t bytes_written() const;
  [[nodiscard]] const std::filesystem::path& path() const;          // final name
  [[nodiscard]] const std::filesystem::path& partial_path() const;  // name until finish()

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvtool::format
