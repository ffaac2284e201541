// YAML as the JSON that says the same.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace kvtool::cli {

// One document. Plain scalars are null, true or false, numbers or strings by the core schema of
// YAML 1.2 (chapter 10.3), quoted ones strings. Error kUsage as "SUBJECT:line:column: reason", also
// for keys that stand there twice, keys that are no strings, nesting deeper than 64, and aliases
// that make a document of more than 100,000 values.
[[nodiscard]] nlohmann::json parse_yaml_text(std::string_view text, const std::string& subject);

}  // namespace kvtool::cli
