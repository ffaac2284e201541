// The payloads of what a scan found: reads and checks each byte of them.
#pragma once

#include <vector>

#include "file_scan.h"
#include "read_block.h"

namespace kvtool::format {

// What is wrong with the task's records. Any thread, each with a buffer of its own.
[[nodiscard]] std::vector<BadRecord> check_task(const FileScan& scan, const ScanTask& task,
                                                ReadBlock& buffer);

}  // namespace kvtool::format
