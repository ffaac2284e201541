// Finds the folders of recordings that a replay compares with.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace kvtool::run {

// The recordings of one model: a folder with .kvc files.
struct ReferenceFolder {
  std::string slug;  // the folder's name: REF_DIR/LABEL/MODEL_SLUG
  std::filesystem::path path;
};

struct ReferenceSource {
  std::optional<std::filesystem::path> file;  // set: this one recording of folders[0]
  std::vector<ReferenceFolder> folders;       // not empty
  // The path named the folder with the recordings itself, so that its name
  // need not be a model slug.
  bool direct = false;
};

// `from` is a label below ref_dir, or the path of a recording, of a folder with
// recordings, or of one above it. Error kUsage that lists what is there; for a
// label that outputs_dir/*/kv_caches holds, the message has the command for it.
[[nodiscard]] ReferenceSource find_reference(const std::string& from,
                                             const std::filesystem::path& ref_dir,
                                             const std::filesystem::path& outputs_dir = "outputs");

}  // namespace kvtool::run
