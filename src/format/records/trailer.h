// The index of a complete recording without a walk over its records.
#pragma once

#include <optional>

#include "kvtool/format/recording.h"
#include "record_index.h"
#include "record_source.h"

namespace kvtool::format {

// From the TRAILER in the file's last bytes; empty when there is none that is intact, which
// leaves truncated and damaged to walk_records(). Error kCorrupt when an intact
// TRAILER places a record outside its neighbours.
[[nodiscard]] std::optional<RecordIndex> index_from_trailer(const RecordSource& source,
                                                            const RecordingHeader& header,
                                                            std::uint64_t first_record);

}  // namespace kvtool::format
