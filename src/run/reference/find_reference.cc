#include "find_reference.h"

#include <algorithm>
#include <system_error>

#include "kvtool/base/error.h"
#include "kvtool/base/file.h"
#include "kvtool/base/nearest.h"
#include "kvtool/base/setting.h"
#include "kvtool/run/paths.h"

namespace kvtool::run {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> subfolders(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    if (entry.is_directory(ignored)) names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

// A folder that may not be read is an error here, not an empty one.
bool holds_recordings(const fs::path& folder) {
  const std::vector<fs::path> paths = list_folder(folder);
  return std::any_of(paths.begin(), paths.end(), [](const fs::path& path) {
    return is_recording_path(path) && !fs::is_directory(path);
  });
}

std::string joined(const std::vector<std::string>& names) {
  std::string result;
  for (const std::string& name : names) result += (result.empty() ? "" : ", ") + name;
  return result;
}

// The folders of one device: those below `folder` that hold recordings.
std::vector<ReferenceFolder> model_folders(const fs::path& folder) {
  std::vector<ReferenceFolder> found;
  for (const std::string& name : subfolders(folder)) {
    if (holds_recordings(folder / name)) found.push_back({name, folder / name});
  }
  return found;
}

ReferenceSource source_of_folder(fs::path folder) {
  if (!folder.has_filename()) folder = folder.parent_path();  // "dir/"
  ReferenceSource source;
  if (holds_recordings(folder)) {
    source.folders = {{fs::absolute(folder).filename().string(), folder}};
    source.direct = true;
    return source;
  }
  source.folders = model_folders(folder);
  if (!source.folders.empty()) return source;
  std::vector<std::string> labels;
  for (const std::string& label : subfolders(folder)) {
    if (!model_folders(folder / label).empty()) labels.push_back(label);
  }
  if (labels.size() == 1) return source_of_folder(folder / labels.front());
  if (labels.empty()) {
    throw_usage(folder.string() + " holds no recordings (batch*_input*.kvc), nor do its folders");
  }
  throw_usage(folder.string() + " holds recordings of several devices (" + joined(labels) +
              "): name one, for example " + setting("from") + " " +
              shell_quoted((folder / labels.front()).string()));
}

// outputs/*/kv_caches/LABEL of the newest run; names sort by time.
std::optional<fs::path> newest_output(const fs::path& outputs_dir, const std::string& label) {
  const std::vector<std::string> runs = subfolders(outputs_dir);
  for (auto run = runs.rbegin(); run != runs.rend(); ++run) {
    const fs::path candidate = outputs_dir / *run / "kv_caches" / label;
    if (fs::is_directory(candidate)) return candidate;
  }
  return std::nullopt;
}

[[noreturn]] void throw_unknown_label(const std::string& from, const fs::path& ref_dir,
                                      const fs::path& outputs_dir) {
  const std::vector<std::string> labels = subfolders(ref_dir);
  std::string message =
      "no recordings of '" + from + "': " + (ref_dir / from).string() + " does not exist";
  message += labels.empty()
                 ? " (" + ref_dir.string() + " holds no device)"
                 : "; " + ref_dir.string() + " holds " + joined(labels) + suggestion(from, labels);
  if (const auto output = newest_output(outputs_dir, from)) {
    message += "\nA run of this folder has them, try:\n    kvtool replay --from " +
               shell_quoted(output->string());
  }
  throw_usage(message);
}

}  // namespace

ReferenceSource find_reference(const std::string& from, const fs::path& ref_dir,
                               const fs::path& outputs_dir) {
  if (from.empty()) throw_usage(setting("from") + " is empty: give a device label or a path");
  const bool is_label = from.find('/') == std::string::npos && from != "." && from != "..";
  if (is_label && fs::is_directory(ref_dir / from)) return source_of_folder(ref_dir / from);
  if (fs::is_directory(from)) return source_of_folder(from);
  if (fs::exists(from)) {
    const fs::path file = from;
    const fs::path folder = file.has_parent_path() ? file.parent_path() : fs::path(".");
    return {file, {{fs::absolute(folder).filename().string(), folder}}, true};
  }
  if (is_label && !is_recording_path(from)) throw_unknown_label(from, ref_dir, outputs_dir);
  throw_usage(setting("from") + " " + from + ": there is no such file or folder");
}

}  // namespace kvtool::run
