// The payloads of what a scan found: reads and checks each byte of them.
#pragma once

#include <vector>

#include "format/records/read_block.h"
#include "format/repair/file_scan.h"

namespace kvtool::format {

// What is wrong with the task's records. Any thread, each with a buffer of its own.
[[nodiscard]] std::vector<BadRecord> check_task(const FileScan& scan, const ScanTask& task,
                                                ReadBlock& buffer);

}  // namespace kvtool::format
