#include "recording_ledger.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <string>

#include "kvtool/format/writer.h"

namespace kvtool::cli {
namespace {

// A finished name beside an unfinished one is the older recording that was to be replaced.
bool is_finished(const std::filesystem::path& path) {
  return std::filesystem::exists(path) &&
         !std::filesystem::exists(path.string() + std::string(format::kPartialSuffix));
}

}  // namespace

void RecordingLedger::log_kept(const std::filesystem::path& folder) const {
  const auto in_batch = std::count_if(current_.begin(), current_.end(), is_finished);
  spdlog::warn("{} of {} recordings are complete in {}; unfinished ones end in {}",
               finished_ + static_cast<std::uint64_t>(in_batch), planned_, folder.string(),
               format::kPartialSuffix);
}

}  // namespace kvtool::cli
