// Which models a replay runs, and which folder of recordings belongs to each.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "find_reference.h"
#include "kvtool/run/model_file.h"
#include "kvtool/run/request.h"
#include "open_recordings.h"

namespace kvtool::run {

// Those that the request names, without those that the named folder of recordings is not of;
// where it names none, the exported model of the only folder in `source`, which is what
// `request.from` means. Error kUsage where that is not enough to choose by, kEnvironment when
// the model is not exported.
[[nodiscard]] std::vector<ModelFile> choose_models(const Request& request,
                                                   const ReferenceSource& source,
                                                   OpenRecordings& recordings);

// The recordings of `model`, one of `num_models` that run. `from` is what `source` was found
// by, for the message. Error kUsage when there are none.
[[nodiscard]] const ReferenceFolder& folder_of(const std::string& from,
                                               const ReferenceSource& source,
                                               const ModelFile& model, std::size_t num_models);

}  // namespace kvtool::run
