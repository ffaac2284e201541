// What an open recording knows; shared by reader.cc (opening, tokens,
// statistics) and cache_reader.cc (K and V).
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <vector>

#include "format/packed/packed_file.h"
#include "format/records/record_source.h"
#include "format/records/record_walk.h"
#include "kvtool/format/reader.h"

namespace kvtool::format {

// One layer's PREFILL or FINAL payload, checked.
struct LayerState {
  StateLayout layout;
  std::uint64_t positions = 0;
  std::vector<std::byte> payload;
};

struct Recording::Impl {
  Impl(RecordSource record_source, RecordingHeader recording_header, std::uint64_t first_record);

  [[nodiscard]] std::uint64_t num_steps() const { return index.trailer.num_steps; }
  [[nodiscard]] bool has_prefill() const { return index.trailer.prefill_end != 0; }
  [[nodiscard]] bool has_finals() const {
    return header.save_mode == SaveMode::kFinalOnly && index.complete;
  }
  [[nodiscard]] std::uint64_t num_cached_positions() const;
  [[nodiscard]] std::uint64_t step_offset(std::uint64_t step) const;
  void require_step(std::uint64_t step) const;
  [[noreturn]] void misuse(const std::string& what) const;

  // The statistics of one step; the rest of its payload is not read.
  [[nodiscard]] StepStats read_stats(std::uint64_t step) const;
  // Also the step's rows, with the checksum of the whole payload.
  StepStats read_step(std::uint64_t step, std::span<std::byte> delta) const;
  [[nodiscard]] LayerState read_state(std::uint32_t layer) const;
  // Of kFinalOnly, read at the first call.
  [[nodiscard]] const LayerState& final_state(std::uint32_t layer) const;
  // Gathers a step's rows out of the final state.
  void gather_delta(std::uint64_t step, std::span<std::byte> delta) const;
  // Reads the rows of one layer of one step, having verified the step once.
  void read_row(std::uint64_t step, std::uint32_t layer, std::span<std::byte> scratch,
                std::span<std::byte> row) const;

  void load_prompt();
  void load_prefill_stats();
  void place_states();
  [[nodiscard]] nlohmann::json read_json(std::uint64_t offset, RecordType type) const;
  [[nodiscard]] StepStats checked_stats(const RecordHeader& record,
                                        std::span<const std::byte> block) const;

  RecordSource source;
  const PackedFile* packed = nullptr;  // source's file, when it is packed
  RecordingHeader header;
  std::uint64_t first_record;
  RecordIndex index;
  nlohmann::json meta;
  nlohmann::json summary;
  std::vector<std::int32_t> prompt;
  StepStats prefill_stats;
  // Of the PREFILL or FINAL record of every layer that read_state() can read.
  std::vector<std::uint64_t> state_offsets;

  // Steps whose payload checksum was right when it was first read, so that
  // reading all layers does not hash every step once per layer.
  mutable std::vector<std::atomic<bool>> verified_steps;
  mutable std::mutex final_mutex;
  // Of kFinalOnly, one per layer; each guarded by final_mutex until it is there.
  mutable std::vector<std::unique_ptr<const LayerState>> finals;
};

}  // namespace kvtool::format
