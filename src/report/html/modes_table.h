// Prefill and replay modes side by side.
#pragma once

#include <string>

#include "kvtool/report/result.h"

namespace kvtool::report::html {

[[nodiscard]] std::string modes_table(const Verdict& verdict);

}  // namespace kvtool::report::html
