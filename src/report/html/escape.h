// Foreign text in the page. Prompts and tokens are hostile until escaped, and
// each place in a page has its own rule: these two are the only ways in.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace kvtool::report::html {

// For element content and quoted attributes: printable UTF-8 (control and
// direction-changing characters and line separators made visible), with & < > " ' as references.
[[nodiscard]] std::string text(std::string_view bytes);

// For a <script type="application/json"> element: no '<', '>', '&', U+2028 or
// U+2029 appears, so that no string can end the element or open a comment.
// Strings of `document` must be valid UTF-8.
[[nodiscard]] std::string script_json(const nlohmann::json& document);

}  // namespace kvtool::report::html
