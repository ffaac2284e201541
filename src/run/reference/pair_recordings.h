// Which recording of one side belongs to which of the other.
#pragma once

#include <filesystem>
#include <vector>

#include "kvtool/run/observer.h"
#include "kvtool/run/services.h"
#include "open_recordings.h"
#include "reference_entry.h"

namespace kvtool::run {

struct RecordingPair {
  ReferenceEntry reference;
  ReferenceEntry live;
};

struct PairedRecordings {
  std::vector<RecordingPair> pairs;            // by model, batch size and input
  std::vector<std::filesystem::path> missing;  // recordings of the reference without a partner
  std::vector<std::filesystem::path> extra;    // those of the other side
};

// Two recordings, or two folders at any height above them: recordings pair by
// model, batch size and input, whatever the device. Where each side has one
// model only, its name does not matter. Error kUsage unless something pairs;
// kCorrupt for a recording that ends before its first token. Unfinished
// (.partial) recordings of a folder that cannot be read are left out with a warning.
[[nodiscard]] PairedRecordings pair_recordings(const std::filesystem::path& reference,
                                               const std::filesystem::path& live,
                                               OpenRecordings& recordings, const StopToken& stop,
                                               Observer& observer);

}  // namespace kvtool::run
