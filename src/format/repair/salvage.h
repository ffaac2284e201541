// What is intact in a damaged recording but cannot stand in a recording any
// more, as a safetensors file. docs/durability.md, "Salvage".
#pragma once

#include <cstdint>
#include <filesystem>

#include "file_scan.h"
#include "kvtool/format/verify.h"

namespace kvtool::format {

struct SalvageRequest {
  const FileScan& scan;
  const ScanResult& result;
  const FileVerdict& verdict;
  std::uint64_t first_step = 0;  // steps before it are in the recovered recording
  bool states = false;           // there is none: PREFILL or FINAL states are wanted too
};

struct Salvaged {
  std::uint64_t tensors = 0;
  std::uint64_t steps = 0;  // with K/V, or with statistics where steps have no K/V
};

// What write_salvage() would write.
[[nodiscard]] Salvaged count_salvage(const SalvageRequest& request);
// Streams tensor by tensor into a new file.
Salvaged write_salvage(const SalvageRequest& request, WritableFile& file);

}  // namespace kvtool::format
