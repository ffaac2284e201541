// Compares a row that is computed again with the finished recording of it.
#pragma once

#include <memory>

#include "kvtool/format/reader.h"
#include "kvtool/format/row.h"

namespace kvtool::format {

// A sink that writes nothing. Prompt, every step and the end state must be those of
// `recording` to the bit: K/V, tokens, top-k, log-sum-exp, digest, number of steps
// and stop reason; how long it took may differ. Error kIncompatible, which names the
// recording, the step and the layer, at the first difference. `recording` is
// complete and outlives the sink.
[[nodiscard]] std::unique_ptr<RowSink> make_recording_check(const Recording& recording);

}  // namespace kvtool::format
