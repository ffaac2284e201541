// The columns of a lab about pages: hits, what came ahead, and waiting.
#pragma once

#include <span>

#include "lab/lab_words.h"

namespace kvtool::report {

[[nodiscard]] std::span<const LabColumn> lab_page_columns();
// What the run without paging was, or why there is none.
[[nodiscard]] std::string lab_ghost_words(const run::LabGhost& ghost);

}  // namespace kvtool::report
