#include "kvtool/run/paths.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <ctime>

#include "kvtool/base/error.h"
#include "kvtool/base/file.h"
#include "kvtool/format/writer.h"
#include "kvtool/run/observer.h"

namespace kvtool::run {
namespace {

constexpr std::string_view kTimestamp = "{timestamp}";
constexpr std::array<std::string_view, 11> kMetadataNames = {
    ".DS_Store", ".localized",  ".Spotlight-V100", ".fseventsd",   ".Trashes", "__MACOSX",
    "Thumbs.db", "ehthumbs.db", "desktop.ini",     ".AppleDouble", "@eaDir"};

std::string formatted_utc(WallTime time, const char* format) {
  const std::time_t seconds = std::chrono::system_clock::to_time_t(time);
  std::tm calendar{};
  gmtime_r(&seconds, &calendar);
  char buffer[32];
  const std::size_t length = std::strftime(buffer, sizeof buffer, format, &calendar);
  return {buffer, length};
}

std::string replaced(std::string_view pattern, const std::string& timestamp) {
  std::string result(pattern);
  for (std::size_t at = result.find(kTimestamp); at != std::string::npos;
       at = result.find(kTimestamp, at + timestamp.size())) {
    result.replace(at, kTimestamp.size(), timestamp);
  }
  return result;
}

void check_placeholders(std::string_view pattern) {
  for (std::size_t at = pattern.find('{'); at != std::string_view::npos;
       at = pattern.find('{', at + 1)) {
    if (pattern.substr(at).starts_with(kTimestamp)) continue;
    throw_usage("output folder '" + std::string(pattern) +
                "': the only placeholder is {timestamp}");
  }
}

// The path up to and including the component that holds the timestamp.
std::filesystem::path stamped_part(std::string_view pattern, const std::string& timestamp) {
  const std::size_t at = pattern.find(kTimestamp);
  const std::size_t end = pattern.find('/', at);
  return replaced(pattern.substr(0, end), timestamp);
}

bool parse_number(std::string_view digits, std::uint64_t& value) {
  if (digits.empty() || (digits.size() > 1 && digits.front() == '0')) return false;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  return error == std::errc() && end == digits.data() + digits.size();
}

// "20261122-053529", or "20261122-053529-2" for the second run of that second. Older
// versions wrote "20261122_053529".
struct Stamp {
  std::string time;  // digits alone
  std::uint64_t number = 1;
  std::string text;  // both

  friend auto operator<=>(const Stamp&, const Stamp&) = default;
};

std::optional<Stamp> parse_stamp(const std::string& text) {
  constexpr std::string_view kShape = "00000000-000000";
  if (text.size() < kShape.size()) return std::nullopt;
  Stamp stamp{.time = {}, .number = 1, .text = text};
  for (std::size_t i = 0; i < kShape.size(); ++i) {
    const char c = text[i];
    if (kShape[i] == '-' ? c != '-' && c != '_' : c < '0' || c > '9') return std::nullopt;
    if (kShape[i] != '-') stamp.time += c;
  }
  const std::string_view rest = std::string_view(text).substr(kShape.size());
  if (rest.empty()) return stamp;
  if (!rest.starts_with('-') || !parse_number(rest.substr(1), stamp.number)) return std::nullopt;
  return stamp;
}

}  // namespace

std::string utc_iso8601(WallTime time) { return formatted_utc(time, "%Y-%m-%dT%H:%M:%SZ"); }

std::filesystem::path expand_output_pattern(std::string_view pattern, WallTime time) {
  if (pattern.empty()) throw_usage("the output folder is empty");
  check_placeholders(pattern);
  if (pattern.find(kTimestamp) == std::string_view::npos) return std::string(pattern);
  const std::string timestamp = formatted_utc(time, "%Y%m%d-%H%M%S");
  std::string unique = timestamp;
  for (int i = 2; std::filesystem::exists(stamped_part(pattern, unique)); ++i) {
    unique = fmt::format("{}-{}", timestamp, i);
  }
  return replaced(pattern, unique);
}

std::optional<std::filesystem::path> newest_output_folder(std::string_view pattern) {
  check_placeholders(pattern);
  if (pattern.find(kTimestamp) == std::string_view::npos) return std::nullopt;
  const std::filesystem::path stamped = stamped_part(pattern, std::string(kTimestamp));
  const std::string name = stamped.filename().string();
  const std::size_t before = name.find(kTimestamp);
  const std::size_t after = name.size() - before - kTimestamp.size();
  std::optional<Stamp> newest;
  std::error_code no_folder;
  for (const auto& entry : std::filesystem::directory_iterator(
           stamped.has_parent_path() ? stamped.parent_path() : ".", no_folder)) {
    const std::string found = entry.path().filename().string();
    if (found.size() < before + after) continue;
    const std::string stamp = found.substr(before, found.size() - before - after);
    const std::optional<Stamp> parsed = parse_stamp(stamp);
    if (!parsed || (newest && *parsed < *newest)) continue;
    // Also compares what stands before and after the timestamp.
    if (stamped_part(pattern, stamp).filename() != found) continue;
    if (std::filesystem::is_directory(replaced(pattern, stamp))) newest = parsed;
  }
  if (!newest) return std::nullopt;
  return replaced(pattern, newest->text);
}

std::string model_slug(std::string_view model_id) {
  std::string slug;
  for (const char c : model_id) {
    const bool upper = c >= 'A' && c <= 'Z';
    const bool kept = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
    if (upper || kept) {
      slug += upper ? static_cast<char>(c - 'A' + 'a') : c;
    } else if (!slug.empty() && slug.back() != '_') {
      slug += '_';
    }
  }
  while (!slug.empty() && slug.back() == '_') slug.pop_back();
  return slug;
}

std::string device_label(std::string_view label) {
  std::string result(label);
  std::replace(result.begin(), result.end(), ' ', '_');
  const bool control = std::any_of(result.begin(), result.end(),
                                   [](unsigned char c) { return c < 0x20 || c == 0x7F; });
  if (result.empty() || result == "." || result == ".." || result.find('/') != std::string::npos ||
      control) {
    throw_usage("device label '" + std::string(label) +
                "' cannot be the name of a folder: use letters, digits, '_', '-' and '.'");
  }
  return result;
}

std::string recording_file_name(std::uint64_t batch_size, std::uint64_t input_index) {
  return fmt::format("batch{}_input{}{}", batch_size, input_index, format::kRecordingSuffix);
}

std::optional<RecordingName> parse_recording_file_name(std::string_view name) {
  RecordingName result;
  if (name.ends_with(format::kPartialSuffix)) {
    result.partial = true;
    name.remove_suffix(format::kPartialSuffix.size());
  }
  constexpr std::string_view kBatch = "batch";
  constexpr std::string_view kInput = "_input";
  if (!name.starts_with(kBatch) || !name.ends_with(format::kRecordingSuffix)) return std::nullopt;
  name.remove_prefix(kBatch.size());
  name.remove_suffix(format::kRecordingSuffix.size());
  const std::size_t separator = name.find(kInput);
  if (separator == std::string_view::npos ||
      !parse_number(name.substr(0, separator), result.batch_size) ||
      !parse_number(name.substr(separator + kInput.size()), result.input_index)) {
    return std::nullopt;
  }
  return result;
}

bool is_partial_path(const std::filesystem::path& path) {
  return path.native().ends_with(std::string(format::kRecordingSuffix) +
                                 std::string(format::kPartialSuffix));
}

bool is_system_metadata(const std::filesystem::path& path) {
  const std::string name = path.filename().string();
  return name.starts_with("._") || name.ends_with(":Zone.Identifier") ||
         std::ranges::find(kMetadataNames, name) != kMetadataNames.end();
}

void note_system_metadata(const std::filesystem::path& folder,
                          const std::vector<std::filesystem::path>& entries, Observer& observer) {
  constexpr std::size_t kNamed = 3;
  std::size_t count = 0;
  std::string names;
  for (const std::filesystem::path& entry : entries) {
    if (!is_system_metadata(entry)) continue;
    if (++count > kNamed) continue;
    names += (names.empty() ? "" : ", ") + entry.filename().string();
  }
  if (count == 0) return;
  if (count > kNamed) names += fmt::format(" and {} more", count - kNamed);
  observer.log(LogLevel::kInfo,
               folder.string() + ": skipped what another system left there: " + names);
}

bool is_recording_path(const std::filesystem::path& path) {
  if (is_system_metadata(path)) return false;
  return path.native().ends_with(format::kRecordingSuffix) || is_partial_path(path);
}

std::vector<std::filesystem::path> recordings_below(const std::filesystem::path& folder,
                                                    Observer& observer) {
  namespace fs = std::filesystem;
  (void)list_folder(folder);  // an unreadable folder is an error, not an empty one
  std::vector<fs::path> paths;
  std::vector<fs::path> metadata;
  const auto options = fs::directory_options::skip_permission_denied;
  const fs::recursive_directory_iterator end;
  for (fs::recursive_directory_iterator entry(folder, options); entry != end; ++entry) {
    if (is_system_metadata(entry->path())) {
      metadata.push_back(entry->path());
      entry.disable_recursion_pending();
    } else if (is_recording_path(entry->path()) && !entry->is_directory()) {
      paths.push_back(entry->path());
    }
  }
  note_system_metadata(folder, metadata, observer);
  std::sort(paths.begin(), paths.end());
  return paths;
}

std::vector<std::filesystem::path> named_recordings(const std::vector<std::string>& given,
                                                    Unfinished unfinished, Observer& observer) {
  namespace fs = std::filesystem;
  const bool leaves_out = unfinished == Unfinished::kLeftOut;
  std::vector<fs::path> found;
  for (const std::string& path : given) {
    if (!fs::exists(path)) throw_usage(path + ": there is no such file or folder");
    if (!fs::is_directory(path)) {
      found.emplace_back(path);
      continue;
    }
    std::vector<fs::path> below = recordings_below(path, observer);
    if (leaves_out) std::erase_if(below, is_partial_path);
    if (below.empty()) {
      throw_usage(path + " holds no " + (leaves_out ? "finished " : "") + "recording (*.kvc)");
    }
    found.insert(found.end(), below.begin(), below.end());
  }
  return found;
}

void check_holds_recording(const std::filesystem::path& target) {
  if (find_output_target(target).can_be_replaced) return;
  throw_usage(target.string() + " is a pipe or a device, which holds no recording: name a file");
}

std::string shell_quoted(std::string_view text) {
  const auto is_plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           std::string_view("_-./:=+,@%").find(c) != std::string_view::npos;
  };
  if (!text.empty() && std::all_of(text.begin(), text.end(), is_plain)) return std::string(text);
  std::string result = "'";
  for (const char c : text) result += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return result + "'";
}

}  // namespace kvtool::run
