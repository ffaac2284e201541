#include "recording_ledger.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <string>

#include "kvtool/format/writer.h"

namespace kvtool::cli {
namespace {

bool is_begun(const std::filesystem::path& path) {
  return std::filesystem::exists(path.string() + std::string(format::kPartialSuffix));
}

// A finished name beside an unfinished one is the older recording that was to be replaced.
bool is_finished(const std::filesystem::path& path) {
  return std::filesystem::exists(path) && !is_begun(path);
}

}  // namespace

void RecordingLedger::log_kept(const std::filesystem::path& folder,
                               const std::string& advice) const {
  const auto in_batch = std::count_if(current_.begin(), current_.end(), is_finished);
  const bool begun = finished_ > 0 || std::any_of(current_.begin(), current_.end(), is_begun);
  if (!begun) return;  // refused before anything was written
  spdlog::warn("{} of {} recordings are complete in {}; unfinished ones end in {}{}",
               finished_ + static_cast<std::uint64_t>(in_batch), planned_, folder.string(),
               format::kPartialSuffix, advice);
}

}  // namespace kvtool::cli
