// Names of folders and recordings: {timestamp}, model slugs, device labels and
// batch{N}_input{M}.kvc.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace kvtool::run {

class Observer;

using WallTime = std::chrono::system_clock::time_point;

// "2026-11-22T05:35:29Z".
[[nodiscard]] std::string utc_iso8601(WallTime time);

// `pattern` with {timestamp} replaced by "20261122-053529" (UTC). Where the
// folder above or at the timestamp exists already, "-2", "-3", ... follow it, so that two
// runs in one second do not share a folder. Error kUsage for any other {name}.
[[nodiscard]] std::filesystem::path expand_output_pattern(std::string_view pattern, WallTime time);

// The folder that the latest earlier run made from `pattern`: the one with the highest
// time, then number. Nothing where there is none, or no {timestamp} in the pattern.
[[nodiscard]] std::optional<std::filesystem::path> newest_output_folder(std::string_view pattern);

// Lower case, every run of other characters than a-z and 0-9 turned to '_',
// none at the ends. "RedHatAI/Meta-Llama-3.1-8B" -> "redhatai_meta_llama_3_1_8b".
[[nodiscard]] std::string model_slug(std::string_view model_id);

// Spaces to '_'. Error kUsage for a label that cannot be a folder's name.
[[nodiscard]] std::string device_label(std::string_view label);

struct RecordingName {
  std::uint64_t batch_size = 0;
  std::uint64_t input_index = 0;
  bool partial = false;

  friend bool operator==(const RecordingName&, const RecordingName&) = default;
};
// "batch4_input12.kvc"; ".partial" follows for an unfinished one.
[[nodiscard]] std::string recording_file_name(std::uint64_t batch_size, std::uint64_t input_index);
[[nodiscard]] std::optional<RecordingName> parse_recording_file_name(std::string_view name);

// What other systems leave beside files: "._NAME" and .DS_Store (macOS), Thumbs.db and
// desktop.ini (Windows), whole folders such as __MACOSX. No recording, whatever its name ends in.
[[nodiscard]] bool is_system_metadata(const std::filesystem::path& path);
// Logs which of the entries of a folder are that, if any.
void note_system_metadata(const std::filesystem::path& folder,
                          const std::vector<std::filesystem::path>& entries, Observer& observer);

// Ends in .kvc or .kvc.partial, and is no system's metadata.
[[nodiscard]] bool is_recording_path(const std::filesystem::path& path);
// All recordings in `folder` and below, unfinished ones included, sorted; notes the metadata of
// other systems that it skips. Error kEnvironment when the folder itself cannot be read.
[[nodiscard]] std::vector<std::filesystem::path> recordings_below(
    const std::filesystem::path& folder, Observer& observer);
// What `given` names, in that order: files as they are, folders as the recordings
// below them. Error kUsage for what does not exist and for a folder that holds none.
enum class Unfinished { kIncluded, kLeftOut };  // in folders
[[nodiscard]] std::vector<std::filesystem::path> named_recordings(
    const std::vector<std::string>& given, Unfinished unfinished, Observer& observer);
[[nodiscard]] bool is_partial_path(const std::filesystem::path& path);

// Error kUsage for the path of a pipe or a device: a recording is read back from its file.
void check_holds_recording(const std::filesystem::path& target);

// For a command line that a user may paste: quoted for the shell where needed.
[[nodiscard]] std::string shell_quoted(std::string_view text);

}  // namespace kvtool::run
