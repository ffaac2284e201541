#include "recording_ledger.h"

#include <algorithm>
#include <string>

#include "kvtool/format/writer.h"

namespace kvtool::run {
namespace {

bool is_begun(const std::filesystem::path& path) {
  return std::filesystem::exists(path.string() + std::string(format::kPartialSuffix));
}

// A finished name beside an unfinished one is the older recording that was to be replaced.
bool is_finished(const std::filesystem::path& path) {
  return std::filesystem::exists(path) && !is_begun(path);
}

}  // namespace

void RecordingLedger::log_kept(Observer& observer, const std::filesystem::path& folder,
                               const std::string& advice) const {
  const auto in_batch = std::count_if(current_.begin(), current_.end(), is_finished);
  const bool begun = finished_ > 0 || std::any_of(current_.begin(), current_.end(), is_begun);
  if (!begun) return;  // refused before anything was written
  observer.log(LogLevel::kWarning,
               std::to_string(finished_ + static_cast<std::uint64_t>(in_batch)) + " of " +
                   std::to_string(planned_) + " recordings are complete in " + folder.string() +
                   "; unfinished ones end in " + std::string(format::kPartialSuffix) + advice);
}

}  // namespace kvtool::run
