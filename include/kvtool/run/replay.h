// replay, and replay with saving: recordings -> batches in their recorded shape -> engine
// -> comparison, results and new recordings.
#pragma once

#include "kvtool/run/observer.h"
#include "kvtool/run/request.h"
#include "kvtool/run/services.h"

namespace kvtool::run {

// `request.from` names the recordings. Error kUsage for what cannot be found or chosen,
// kIncompatible for recordings of another model, kCorrupt for damaged ones. Interrupted
// after a stop. Summary::failed() says whether some gate failed.
Summary run_replay(const Request& request, const Services& services, Observer& observer);

}  // namespace kvtool::run
