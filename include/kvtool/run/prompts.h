// Prompts as a user gives them: text, chat messages or token ids; on the
// command line, in a .jsonl file or in the configuration.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace kvtool::run {

struct Prompt {
  enum class Kind { kText, kMessages, kTokenIds };

  Kind kind = Kind::kText;
  std::string text;  // kText
  // kMessages: [{"role": ..., "content": ...}, ...], a content a text or [{"type": "text", ...}]
  nlohmann::json messages;
  std::vector<std::int32_t> token_ids;  // kTokenIds
  std::string origin;                   // for messages: "--prompt 2", "prompts.jsonl line 3"
  // Of a text: the prompt is its first so many tokens. 0: all.
  std::uint64_t cut_to_tokens = 0;

  // {"text": ...}, {"messages": ...} or {"token_ids": ...}.
  [[nodiscard]] nlohmann::json to_json() const;
};

// Error kUsage for a text that is empty or not UTF-8.
[[nodiscard]] Prompt text_prompt(std::string text, std::string origin);

// A JSON string or one of the three objects above. Error kUsage that names `origin`.
[[nodiscard]] Prompt parse_prompt(const nlohmann::json& value, const std::string& origin);

// One JSON value a line, empty lines skipped, or one array of them, in UTF-8 with or without
// byte order mark; Error kUsage with path and line.
[[nodiscard]] std::vector<Prompt> load_prompts_file(const std::filesystem::path& path);

// A prompt for each of `contexts`: the first so many tokens of the text in the file, in UTF-8 with
// or without byte order mark. Error kUsage that names the file.
[[nodiscard]] std::vector<Prompt> cut_text_prompts(const std::filesystem::path& path,
                                                   std::span<const std::uint64_t> contexts);

// "expected an array, found a string": names of JSON types for messages.
[[nodiscard]] std::string json_type_name(const nlohmann::json& value);

// JSON that may hold comments. Error kUsage as "SUBJECT:line:column: reason"; UTF-16 and UTF-32
// are refused by name, duplicate keys since one of them would be ignored silently, and so
// is nesting deeper than 64.
[[nodiscard]] nlohmann::json parse_json_text(std::string_view text, const std::string& subject,
                                             bool ignore_comments);

}  // namespace kvtool::run
