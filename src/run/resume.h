// What `save --resume` finds under the names that it is going to write, and
// whether it is this run's.
#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>

#include "kvtool/format/reader.h"
#include "kvtool/run/observer.h"

namespace kvtool::run {

// What this run would write for one input.
struct ExpectedRecording {
  const format::RecordingHeader& header;
  std::span<const std::int32_t> prompt;
  const nlohmann::json& meta;
};

// The recording at `path` if it is whole, every byte of it checked; nothing where there
// is no file, or one that is cut short, as a power failure leaves it (with a warning).
// Error kCorrupt when it is damaged.
[[nodiscard]] std::optional<format::Recording> find_whole_recording(
    const std::filesystem::path& path, Observer& observer);

// The time that the chat template of the recording at `path` has read, as EncodedPrompt has
// it; empty where it read none, or there is no file.
[[nodiscard]] std::string recorded_clock(const std::filesystem::path& path);

// Error kIncompatible, naming the fields, where META's `model` of a recording is of another
// config than this run's: as of a replay, what is there is of no use to this run.
void check_same_config(const std::filesystem::path& path, const nlohmann::json& recorded_model,
                       const nlohmann::json& model);

// Error kUsage, which names the file and the setting, unless an uninterrupted run with
// the present settings on the present device would have written `recording`; of
// another config as check_same_config().
void check_same_run(const format::Recording& recording, const ExpectedRecording& expected);

}  // namespace kvtool::run
