#include "select_references.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "kvtool/base/error.h"
#include "kvtool/base/file.h"
#include "kvtool/base/setting.h"
#include "kvtool/run/paths.h"

namespace kvtool::run {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kListedNames = 5;

std::vector<fs::path> recordings_in(const fs::path& folder, Observer& observer) {
  std::vector<fs::path> paths;
  const std::vector<fs::path> entries = list_folder(folder);
  note_system_metadata(folder, entries, observer);
  for (const fs::path& path : entries) {
    if (is_recording_path(path) && !fs::is_directory(path)) paths.push_back(path);
  }
  // An older attempt's leftover says nothing that the finished file does not.
  std::erase_if(paths, [](const fs::path& path) {
    return is_partial_path(path) && fs::exists(fs::path(path).replace_extension());
  });
  return paths;
}

std::string some_names(const std::vector<ReferenceEntry>& entries) {
  std::string names;
  for (std::size_t i = 0; i < std::min(entries.size(), kListedNames); ++i) {
    names += (i == 0 ? "" : ", ") + entries[i].path.filename().string();
  }
  if (entries.size() > kListedNames) {
    names += " and " + std::to_string(entries.size() - kListedNames) + " more";
  }
  return names;
}

// By the file's name where it has the usual form, so that a folder with other
// batch sizes is not opened file by file.
std::optional<std::uint64_t> named_batch_size(const fs::path& path) {
  const auto name = parse_recording_file_name(path.filename().string());
  return name ? std::optional(name->batch_size) : std::nullopt;
}

void warn(Observer& observer, const std::string& message) {
  observer.log(LogLevel::kWarning, message);
}

using EntriesByBatchSize = std::map<std::uint64_t, std::vector<ReferenceEntry>>;

EntriesByBatchSize read_folder(const fs::path& folder, std::optional<std::uint64_t> batch_size,
                               OpenRecordings& recordings, Observer& observer) {
  EntriesByBatchSize entries;
  for (const fs::path& path : recordings_in(folder, observer)) {
    const auto named = named_batch_size(path);
    if (batch_size && named && *named != *batch_size) continue;
    ReferenceEntry entry;
    try {
      entry = read_reference_entry(path, recordings);
    } catch (const Error& error) {
      if (!is_partial_path(path)) throw;
      warn(observer, path.string() + " is left out: " + error.message());
      continue;
    }
    entry.selected = !is_partial_path(path);
    if (batch_size && entry.batch_size != *batch_size) continue;
    entries[entry.batch_size].push_back(std::move(entry));
  }
  return entries;
}

std::string listed(const EntriesByBatchSize& entries) {
  std::string sizes;
  for (const auto& [size, unused] : entries)
    sizes += (sizes.empty() ? "" : ", ") + std::to_string(size);
  return sizes;
}

std::vector<std::uint64_t> chosen_batch_sizes(const EntriesByBatchSize& entries,
                                              const fs::path& folder,
                                              const ReferenceSelection& selection) {
  if (entries.size() == 1) return {entries.begin()->first};
  if (selection.batch_sizes.empty()) {
    throw_usage(folder.string() + " holds recordings of batch sizes " + listed(entries) +
                ": choose one with " + setting("from_batch_size"));
  }
  for (const std::uint64_t size : selection.batch_sizes) {
    if (!entries.contains(size)) {
      throw_usage(folder.string() + " holds no recording of batch size " + std::to_string(size) +
                  ", only of " + listed(entries));
    }
  }
  return selection.batch_sizes;
}

void check_inputs(std::vector<ReferenceEntry>& entries, const fs::path& folder,
                  const ReferenceSelection& selection, Observer& observer) {
  std::stable_sort(entries.begin(), entries.end(),
                   [](const auto& a, const auto& b) { return a.input_index < b.input_index; });
  std::set<std::uint64_t> present;
  for (const ReferenceEntry& entry : entries) {
    if (entry.selected && !present.insert(entry.input_index).second) {
      throw_corrupt(entry.path.string() + ": a second recording of input " +
                    std::to_string(entry.input_index) + " in this folder");
    }
  }
  for (ReferenceEntry& entry : entries) {
    if (!entry.selected && !present.contains(entry.input_index)) {
      warn(observer, entry.path.string() + " is unfinished and left out; name it with " +
                         setting("from") + " to replay it");
    }
    if (selection.num_inputs && entry.input_index >= *selection.num_inputs) entry.selected = false;
  }
  for (std::uint64_t i = 0; i < selection.num_inputs.value_or(0); ++i) {
    if (present.contains(i)) continue;
    throw_usage("KV cache not found for input " + std::to_string(i) + ": looked for " +
                (folder / recording_file_name(entries.front().batch_size, i)).string() +
                "; this folder has " + some_names(entries));
  }
}

// The named recording and whatever ran in its batch.
std::vector<ReferenceEntry> file_with_mates(const fs::path& file, const fs::path& folder,
                                            OpenRecordings& recordings, Observer& observer) {
  std::vector<ReferenceEntry> entries = {read_reference_entry(file, recordings)};
  if (!entries.front().run || entries.front().run->rows == 1) return entries;
  for (const fs::path& path : recordings_in(folder, observer)) {
    const auto named = named_batch_size(path);
    if (fs::equivalent(path, file) || (named && *named != entries.front().batch_size)) continue;
    try {
      ReferenceEntry mate = read_reference_entry(path, recordings);
      mate.selected = false;
      const bool same_batch = mate.run && mate.run->batch_id == entries.front().run->batch_id;
      if (same_batch) entries.push_back(std::move(mate));
    } catch (const Error& error) {
      warn(observer, path.string() + " is left out of the batch: " + error.message());
    }
  }
  return entries;
}

// A row that has no token cannot be replayed, not even to complete a batch.
std::vector<ReferenceEntry> with_prefill(std::vector<ReferenceEntry> entries, Observer& observer) {
  for (const ReferenceEntry& entry : entries) {
    if (entry.has_prefill) continue;
    if (entry.selected) {
      throw_corrupt(entry.path.string() +
                    ": the recording ends before its first token: there is nothing to replay");
    }
    warn(observer, entry.path.string() + " is left out: it ends before its first token");
  }
  std::erase_if(entries, [](const ReferenceEntry& entry) { return !entry.has_prefill; });
  return entries;
}

}  // namespace

std::vector<std::vector<ReferenceEntry>> select_references(const ReferenceSource& source,
                                                           const ReferenceFolder& folder,
                                                           const ReferenceSelection& selection,
                                                           OpenRecordings& recordings,
                                                           Observer& observer) {
  if (source.file) {
    return {
        with_prefill(file_with_mates(*source.file, folder.path, recordings, observer), observer)};
  }
  EntriesByBatchSize entries = read_folder(folder.path, selection.batch_size, recordings, observer);
  if (entries.empty()) {
    throw_usage(folder.path.string() + " holds no recording" +
                (selection.batch_size
                     ? " of batch size " + std::to_string(*selection.batch_size) + " (batch" +
                           std::to_string(*selection.batch_size) + "_input*.kvc)"
                     : std::string()));
  }
  std::vector<std::vector<ReferenceEntry>> result;
  for (const std::uint64_t size : chosen_batch_sizes(entries, folder.path, selection)) {
    check_inputs(entries.at(size), folder.path, selection, observer);
    const bool any = std::any_of(entries.at(size).begin(), entries.at(size).end(),
                                 [](const ReferenceEntry& entry) { return entry.selected; });
    if (!any) {
      throw_usage(folder.path.string() + " holds no finished recording, only " +
                  some_names(entries.at(size)) + ": name one with " + setting("from") +
                  " to replay it");
    }
    result.push_back(with_prefill(entries.at(size), observer));
  }
  return result;
}

}  // namespace kvtool::run
