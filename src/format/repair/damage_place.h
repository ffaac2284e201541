// From what a scan found to what a user reads: which layers, K or V, steps and
// positions are damaged.
#pragma once

#include "file_scan.h"
#include "kvtool/format/verify.h"

namespace kvtool::format {

// Reads the groups of steps and the states that are damaged once more, to compare
// them with CHECKSUMS where the file has an intact one.
[[nodiscard]] FileVerdict make_verdict(const FileScan& scan, const ScanResult& result);

}  // namespace kvtool::format
