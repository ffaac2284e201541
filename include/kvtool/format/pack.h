// Packing: the same recording in fewer bytes, for references that are kept.
// Every command reads packed recordings as they are; unpacking gives back the
// original file, byte for byte. See docs/format.md, "Packed files".
//
// Both functions write a temporary file beside the target, read it back,
// compare, and only then give it the target's name: at any moment the target is
// the old file or the whole new one. Thread-safe for different targets.
//
// Errors: kUsage for a recording that is (not) packed already or is truncated,
// kCorrupt for damage, in the file or in what was written, kEnvironment for I/O.
// The temporary file is removed.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>

#include "kvtool/base/file.h"

namespace kvtool::format {

struct PackOptions {
  FileSystem* file_system = nullptr;  // not owned; null means posix_file_system()
  std::filesystem::path output = {};  // empty: in place
  // Durable before the old file goes: fdatasync before the rename, then the folder.
  bool sync = true;
  // Called between pieces of a few MB with the bytes that are done, of
  // 2 * the original's length: written once, compared once. May throw to stop.
  std::function<void(std::uint64_t done)> progress = {};
};

struct PackResult {
  std::uint64_t original_bytes = 0;
  std::uint64_t packed_bytes = 0;
};

// A complete recording, of which every byte is verified first.
PackResult pack_recording(const std::filesystem::path& path, const PackOptions& options = {});
PackResult unpack_recording(const std::filesystem::path& path, const PackOptions& options = {});

}  // namespace kvtool::format
