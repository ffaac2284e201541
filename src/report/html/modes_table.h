// Prefill and replay modes side by side.
#pragma once

#include <string>

#include "kvtool/run/result.h"

namespace kvtool::report::html {

[[nodiscard]] std::string modes_table(const run::Verdict& verdict);

}  // namespace kvtool::report::html
