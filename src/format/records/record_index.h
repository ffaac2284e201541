// Where the records of a file are: what opening a recording finds out.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "record_codec.h"

namespace kvtool::format {

// Of a truncated file, only whole records count.
struct RecordIndex {
  Trailer trailer;  // file_bytes and num_records only when complete
  std::uint64_t prompt = 0;
  std::uint64_t num_prefills = 0;
  std::uint64_t num_finals = 0;
  bool complete = false;
  std::string truncation;  // what is missing; empty when complete

  friend bool operator==(const RecordIndex&, const RecordIndex&) = default;
};

// How much there is before SUMMARY, in words: "the prefill and 3 whole steps".
[[nodiscard]] std::string describe_progress(const RecordIndex& index,
                                            const RecordingHeader& header);

// What a file has to offer that ends before its PROMPT does: nothing. Error kCorrupt.
// `has_meta`: it has the whole META.
[[noreturn]] void throw_no_prompt(const std::filesystem::path& path, bool has_meta);

}  // namespace kvtool::format
