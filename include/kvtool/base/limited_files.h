// Files that are kept at hand by the thousand without a descriptor for each.
#pragma once

#include <cstddef>
#include <memory>

#include "kvtool/base/file.h"

namespace kvtool {

// `files`, of whose files for reading at most `limit` (at least 1) are open at a time: the one
// that was read longest ago is closed, and opened again by its path when it is read next. Files
// may be read from several threads and outlive what this returns, but not `files`.
[[nodiscard]] std::unique_ptr<FileSystem> limit_open_files(FileSystem& files, std::size_t limit);

}  // namespace kvtool
