// Reads one recording. Opening a complete one reads header, META, PROMPT,
// PREFILL_END, SUMMARY and TRAILER only, so that it takes milliseconds on a file
// of any size; a truncated one is walked step by step. Every payload is checked
// against its checksum when it is first read.
//
// Truncated is a state: a file that lacks its end is opened, and exposes the
// longest contiguous prefix of valid records. Damaged is an Error (kCorrupt)
// that names path, offset, record and layer. Const functions may be called
// from several threads.
#pragma once

#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <vector>

#include "kvtool/base/file.h"
#include "kvtool/format/recording.h"

namespace kvtool::format {

struct ReaderOptions {
  FileSystem* file_system = nullptr;  // not owned; null means posix_file_system()
};

class Recording {
 public:
  static Recording open(const std::filesystem::path& path, ReaderOptions options = {});
  ~Recording();
  Recording(Recording&&) noexcept;
  Recording& operator=(Recording&&) noexcept;

  [[nodiscard]] const std::filesystem::path& path() const;
  // As it was written, packed or not; messages count bytes in this file too.
  [[nodiscard]] std::uint64_t file_bytes() const;
  // Packed recordings (format/pack.h) are read like others; they take stored_bytes() on disk.
  [[nodiscard]] bool packed() const;
  [[nodiscard]] std::uint64_t stored_bytes() const;
  [[nodiscard]] const RecordingHeader& header() const;
  [[nodiscard]] const Geometry& geometry() const { return header().geometry; }
  // Advisory: device, versions, settings, batch, prompt text. See docs/format.md.
  [[nodiscard]] const nlohmann::json& meta() const;
  // Written at the end; a JSON null in a truncated recording.
  [[nodiscard]] const nlohmann::json& summary() const;
  [[nodiscard]] std::span<const std::int32_t> prompt() const;

  // False: the file ends early (crash, copy cut short, still being written).
  [[nodiscard]] bool complete() const;
  // What is missing, in words; empty when complete.
  [[nodiscard]] const std::string& truncation() const;
  // Prompt K/V and token 0 are there. Without it num_steps() is 0.
  [[nodiscard]] bool has_prefill() const;
  // Complete steps. Generated tokens: num_steps() + 1 when has_prefill().
  [[nodiscard]] std::uint64_t num_steps() const;
  // Positions whose K/V can be read: prompt + steps (kDelta), prompt
  // (kPrefillOnly), prompt + steps (complete kFinalOnly), 0 otherwise.
  [[nodiscard]] std::uint64_t num_cached_positions() const;

  // Token 0 and the resulting token of every step.
  [[nodiscard]] std::vector<std::int32_t> read_tokens() const;
  [[nodiscard]] StepStats read_prefill_stats() const;
  [[nodiscard]] StepStats read_step_stats(std::uint64_t step) const;

  // True when read_delta() works: kDelta, and complete kFinalOnly.
  [[nodiscard]] bool has_deltas() const;
  // K/V rows of position prompt_length + step in delta layout; target has
  // geometry().delta_bytes(). One read of O(delta) in kDelta. In kFinalOnly each
  // layer of the final state is read and verified once, then kept in memory.
  void read_delta(std::uint64_t step, std::span<std::byte> target) const;
  // As read_step_stats and read_delta in one read of the file.
  [[nodiscard]] StepStats read_step(std::uint64_t step, std::span<std::byte> delta) const;

  // K and V of positions [0, positions) of one layer, in any save mode:
  // key [num_kv_heads, positions, key_dim], value likewise, contiguous.
  // positions <= num_cached_positions(), else Error kMisuse.
  void read_layer(std::uint32_t layer, std::uint64_t positions, std::span<std::byte> key,
                  std::span<std::byte> value) const;

  // Gives back what was kept for the next read: layers of a final state, unpacked blocks.
  // No other thread may be reading.
  void release_buffers() const;

  // Reads and checks every byte of the file; throws on the first damage.
  void verify() const;

 private:
  struct Impl;
  explicit Recording(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvtool::format
