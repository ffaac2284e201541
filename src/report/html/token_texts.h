// Token bytes as text. One character may be spread over several tokens.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "kvtool/run/result.h"

namespace kvtool::report::html {

// The recorded tokens' printable texts. A character whose bytes begin in one
// token and end in a later one belongs to the later.
[[nodiscard]] std::vector<std::string> recorded_texts(std::span<const run::TokenText> tokens);

}  // namespace kvtool::report::html
