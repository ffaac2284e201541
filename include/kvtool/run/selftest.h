// Proves that a gate can fail: replays a reference without a fault, then with one fault
// after the other, and judges each replay as any other one would be judged.
#pragma once

#include "kvtool/run/observer.h"
#include "kvtool/run/request.h"
#include "kvtool/run/services.h"

namespace kvtool::run {

// Of one model after the other. The reference is what `request.from` names, or recorded now in
// a temporary folder from `request.prompts` (built-in ones where there are none). Without a
// gate, the built-in one for the model's K/V is tested. It is replayed as `request.replay_shape`
// says, with the faults as without them. `search`: also looks for the smallest
// strength of each fault that is still caught. Returns whether every selftest passed.
//
// Errors as run_replay(); kUsage when the recordings hold no steps. Interrupted after a stop.
bool run_selftest(const Request& request, bool search, const Services& services,
                  Observer& observer);

}  // namespace kvtool::run
