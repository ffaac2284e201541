// The page's template, filled.
#pragma once

#include <map>
#include <string>
#include <string_view>

namespace kvtool::report::html {

// Replaces every <!--kvtool:NAME--> of `page` by `parts[NAME]`. One pass: what is
// put in is never searched for marks. A mark without a part is a defect of the
// template (Error kInternal).
[[nodiscard]] std::string fill(std::string_view page,
                               const std::map<std::string, std::string, std::less<>>& parts);

// The scripts, joined in the order in which they use each other.
[[nodiscard]] std::string scripts();

}  // namespace kvtool::report::html
