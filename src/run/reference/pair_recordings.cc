#include "pair_recordings.h"

#include <algorithm>
#include <compare>
#include <map>
#include <set>
#include <string>
#include <utility>

#include "kvtool/base/error.h"
#include "kvtool/base/file.h"
#include "kvtool/run/paths.h"

namespace kvtool::run {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kListedPairs = 5;

struct Key {
  std::string model;
  std::uint64_t batch_size = 0;
  std::uint64_t input_index = 0;

  friend auto operator<=>(const Key&, const Key&) = default;
};
using EntriesByKey = std::map<Key, ReferenceEntry>;

// An older attempt's leftover says nothing that the finished file does not.
std::vector<fs::path> comparable_below(const fs::path& folder, Observer& observer) {
  std::vector<fs::path> paths = recordings_below(folder, observer);
  std::erase_if(paths, [](const fs::path& path) {
    return is_partial_path(path) && fs::exists(fs::path(path).replace_extension());
  });
  return paths;
}

ReferenceEntry readable_entry(const fs::path& path, OpenRecordings& recordings) {
  ReferenceEntry entry = read_reference_entry(path, recordings);
  if (entry.has_prefill) return entry;
  throw_corrupt(path.string() +
                ": the recording ends before its first token: there is nothing to compare");
}

Key key_of(const ReferenceEntry& entry) {
  const std::string folder = fs::absolute(entry.path).parent_path().filename().string();
  return {entry.model_slug.empty() ? folder : entry.model_slug, entry.batch_size,
          entry.input_index};
}

std::string name_of(const Key& key) {
  return recording_file_name(key.batch_size, key.input_index) + " of " + key.model;
}

EntriesByKey read_folder(const fs::path& folder, OpenRecordings& recordings, const StopToken& stop,
                         Observer& observer) {
  EntriesByKey entries;
  for (const fs::path& path : comparable_below(folder, observer)) {
    stop.throw_if_requested();
    ReferenceEntry entry;
    try {
      entry = readable_entry(path, recordings);
    } catch (const Error& error) {
      if (!is_partial_path(path)) throw;
      observer.log(LogLevel::kWarning, path.string() + " is left out: " + error.message());
      continue;
    }
    const Key key = key_of(entry);
    const auto [known, inserted] = entries.emplace(key, std::move(entry));
    if (inserted) continue;
    throw_usage(folder.string() + " holds two recordings " + name_of(key) + ":\n    " +
                known->second.path.string() + "\n    " + path.string() +
                "\nName the folder of one device and run");
  }
  if (entries.empty()) throw_usage(folder.string() + " holds no recordings (*.kvc)");
  return entries;
}

std::set<std::string> models_of(const EntriesByKey& entries) {
  std::set<std::string> models;
  for (const auto& [key, unused] : entries) models.insert(key.model);
  return models;
}

// One model against one is meant to be compared whatever its name, such as an
// FP8 export with the original.
EntriesByKey renamed(EntriesByKey entries, const std::string& model) {
  EntriesByKey result;
  while (!entries.empty()) {
    auto node = entries.extract(entries.begin());
    node.key().model = model;
    result.insert(std::move(node));
  }
  return result;
}

std::string some_names(const EntriesByKey& entries) {
  std::string names;
  std::size_t listed = 0;
  for (const auto& [key, unused] : entries) {
    if (++listed > kListedPairs) break;
    names += (listed == 1 ? "" : ", ") + name_of(key);
  }
  if (entries.size() > kListedPairs) {
    names += " and " + std::to_string(entries.size() - kListedPairs) + " more";
  }
  return names;
}

PairedRecordings pair_folders(const fs::path& reference, const fs::path& live,
                              OpenRecordings& recordings, const StopToken& stop,
                              Observer& observer) {
  EntriesByKey recorded = read_folder(reference, recordings, stop, observer);
  EntriesByKey others = read_folder(live, recordings, stop, observer);
  const std::set<std::string> models = models_of(recorded);
  if (models.size() == 1 && models_of(others).size() == 1) {
    others = renamed(std::move(others), *models.begin());
  }
  PairedRecordings result;
  for (auto& [key, entry] : recorded) {
    auto partner = others.extract(key);
    if (partner.empty()) {
      result.missing.push_back(entry.path);
    } else {
      result.pairs.push_back({std::move(entry), std::move(partner.mapped())});
    }
  }
  for (const auto& [key, entry] : others) result.extra.push_back(entry.path);
  if (result.pairs.empty()) {
    throw_usage("no recording of " + reference.string() + " has a partner in " + live.string() +
                " (the same model, batch size and input):\n    " + reference.string() + " holds " +
                some_names(recorded) + "\n    " + live.string() + " holds " + some_names(others) +
                "\nTwo files can be compared whatever their names");
  }
  return result;
}

void check_exists(const fs::path& path) {
  if (!fs::exists(path)) throw_usage(path.string() + ": there is no such file or folder");
}

}  // namespace

PairedRecordings pair_recordings(const fs::path& reference, const fs::path& live,
                                 OpenRecordings& recordings, const StopToken& stop,
                                 Observer& observer) {
  check_exists(reference);
  check_exists(live);
  const bool folders = fs::is_directory(reference);
  if (folders != fs::is_directory(live)) {
    throw_usage((folders ? reference : live).string() + " is a folder and " +
                (folders ? live : reference).string() + " a file: give two of a kind");
  }
  if (folders) return pair_folders(reference, live, recordings, stop, observer);
  return {{{readable_entry(reference, recordings), readable_entry(live, recordings)}}, {}, {}};
}

}  // namespace kvtool::run
