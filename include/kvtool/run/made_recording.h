// Writes valid recordings of any size without a model, for measurements.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

#include "kvtool/base/stop.h"

namespace kvtool::run {

// A whole delta recording of at least `bytes`. Its rows are those of `like`, a recording
// of mode delta, over and over; without it they are random and finite, in the shape of
// an 8-billion-parameter Llama (32 layers, 8 KV heads of 128, bfloat16). Nothing is left
// of it when it cannot be finished. Returns its size.
//
// Error kUsage when `path` exists or has not the name of a recording, or when `like` has
// no K/V of single steps, kEnvironment when the disk has no room; Interrupted after a stop.
std::uint64_t make_recording(const std::filesystem::path& path, std::uint64_t bytes,
                             const std::optional<std::filesystem::path>& like,
                             const StopToken& stop);

}  // namespace kvtool::run
