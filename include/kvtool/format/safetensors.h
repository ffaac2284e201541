// Exports the cache at one step of a recording in the safetensors format
// (https://github.com/huggingface/safetensors#format), for any other tool.
#pragma once

#include <cstdint>
#include <filesystem>

#include "kvtool/base/file.h"
#include "kvtool/format/reader.h"

namespace kvtool::format {

// Writes `key.L`, `value.L` for every layer L, shapes [heads, positions, dim],
// and `tokens`: I64 [prompt_length + generated tokens up to and including the result of
// `step`], atomically. The cache at step s holds prompt_length + s + 1 positions; step -1 is
// the state right after the prefill. __metadata__ carries model, device, dtype,
// step, prompt_length and the recording's UUID as strings.
// Layers are written one by one; a failed export leaves no file behind.
// Error kUsage when the recording has no K/V for that step, naming the last one it has.
// `file_system` is not owned; null means posix_file_system().
void write_safetensors(const Recording& recording, std::int64_t step,
                       const std::filesystem::path& target, FileSystem* file_system = nullptr);
// The same content, appended to a file that is open.
void write_safetensors(const Recording& recording, std::int64_t step, WritableFile& file);

}  // namespace kvtool::format
