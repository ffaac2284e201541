#include "kvtool/base/stop.h"

namespace kvtool {

const char* Interrupted::what() const noexcept { return "interrupted"; }

void StopToken::throw_if_requested() const {
  if (stop_requested()) throw Interrupted();
}

}  // namespace kvtool
