#include "kvtool/run/prompts.h"

#include <algorithm>
#include <limits>
#include <set>
#include <span>
#include <utility>

#include "kvtool/base/error.h"
#include "kvtool/base/file.h"
#include "kvtool/base/nearest.h"
#include "kvtool/base/text.h"

namespace kvtool::run {
namespace {

using nlohmann::json;

constexpr std::uint64_t kMaxPromptsFileBytes = std::uint64_t{1} << 30U;
const std::string kPromptForms =
    "{\"text\": \"...\"}, {\"messages\": [...]} or {\"token_ids\": [...]}";

// The encoding that a file has instead of UTF-8, or nothing. JSON begins with a character of
// ASCII, so zeros tell it without a byte order mark, too.
std::string foreign_encoding(std::string_view content) {
  using std::string_view_literals::operator""sv;
  for (const auto& [start, name] : {std::pair{"\xFF\xFE\0\0"sv, "UTF-32 (little-endian)"},
                                    {"\0\0\xFE\xFF"sv, "UTF-32 (big-endian)"},
                                    {"\xFF\xFE"sv, "UTF-16 (little-endian)"},
                                    {"\xFE\xFF"sv, "UTF-16 (big-endian)"}}) {
    if (content.starts_with(start)) return name;
  }
  if (content.size() < 4) return {};
  const auto zero = [&](std::size_t i) { return content[i] == '\0'; };
  if (zero(0) && zero(1) && zero(2)) return "UTF-32 (big-endian)";
  if (zero(1) && zero(2) && zero(3)) return "UTF-32 (little-endian)";
  if (zero(0) && zero(2)) return "UTF-16 (big-endian)";
  if (zero(1) && zero(3)) return "UTF-16 (little-endian)";
  return {};
}

void require_utf8(std::string_view content, const std::string& subject) {
  const std::string encoding = foreign_encoding(content);
  if (!encoding.empty()) throw_usage(subject + " is " + encoding + ": save it as UTF-8");
}

std::pair<std::size_t, std::size_t> line_and_column(std::string_view text, std::size_t offset) {
  offset = std::min(offset, text.size());
  std::size_t line = 1;
  std::size_t column = 1;
  for (std::size_t i = 0; i < offset; ++i) {
    column = text[i] == '\n' ? 1 : column + 1;
    line += text[i] == '\n' ? 1 : 0;
  }
  return {line, column};
}

// "FILE:3:14".
std::string place_of(const std::string& subject, std::string_view text, std::size_t offset) {
  const auto [line, column] = line_and_column(text, offset);
  return subject + ":" + std::to_string(line) + ":" + std::to_string(column);
}

// The parser takes a NUL for the end of the text, and what follows for nothing.
void require_no_nul(std::string_view text, const std::string& subject) {
  const std::size_t nul = text.find('\0');
  if (nul == std::string_view::npos) return;
  throw_usage(place_of(subject, text, nul) + ": a NUL byte, which no text holds");
}

// "[json.exception.parse_error.101] parse error at line 1, column 2: reason" -> "reason".
std::string parse_reason(const json::parse_error& error) {
  const std::string what = error.what();
  const std::size_t column = what.find("column ");
  const std::size_t colon = column == std::string::npos ? column : what.find(": ", column);
  return colon == std::string::npos ? what : what.substr(colon + 2);
}

// Refuses what a tree would hide or could not bear: a key that stands twice, and nesting
// so deep that copying or printing the tree would exhaust the stack.
class DocumentCheck final : public nlohmann::json_sax<json> {
 public:
  DocumentCheck(std::string subject, std::string_view text)
      : subject_(std::move(subject)), text_(text) {}

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(std::size_t) override { return open(); }
  bool key(string_t& name) override {
    if (seen_.back().insert(name).second) return true;
    throw_usage(subject_ + ": key '" + name + "' stands twice in one object");
  }
  bool end_object() override { return close(); }
  bool start_array(std::size_t) override { return open(); }
  bool end_array() override { return close(); }
  // What is no JSON is left to the parser that builds the tree, which comes to the same place. A
  // number beyond double's range is JSON, and that parser does not say where it stands.
  bool parse_error(std::size_t position, const std::string& token,
                   const json::exception& error) override {
    if (dynamic_cast<const json::out_of_range*>(&error) != nullptr) {
      throw_usage(place_of(subject_, text_, position - token.size()) + ": the number " + token +
                  " is too large");
    }
    return false;
  }

 private:
  bool open() {
    if (seen_.size() == kMaxDepth) {
      throw_usage(subject_ + ": nested deeper than " + std::to_string(kMaxDepth));
    }
    seen_.emplace_back();
    return true;
  }
  bool close() {
    seen_.pop_back();
    return true;
  }

  static constexpr std::size_t kMaxDepth = 64;

  std::string subject_;
  std::string_view text_;
  std::vector<std::set<std::string>> seen_;  // of every open object; arrays have none
};

std::vector<std::int32_t> parse_token_ids(const json& value, const std::string& origin) {
  if (!value.is_array()) {
    throw_usage(origin + ": token_ids: expected an array of integers, found " +
                json_type_name(value));
  }
  std::vector<std::int32_t> ids;
  ids.reserve(value.size());
  for (std::size_t i = 0; i < value.size(); ++i) {
    const json& item = value[i];
    const bool fits =
        item.is_number_integer() && item >= 0 && item <= std::numeric_limits<std::int32_t>::max();
    if (!fits) {
      throw_usage(origin + ": token_ids[" + std::to_string(i) + "]: expected a token id, found " +
                  item.dump());
    }
    ids.push_back(item.get<std::int32_t>());
  }
  if (ids.empty()) throw_usage(origin + ": token_ids is empty: a prompt needs a token");
  return ids;
}

// The content may be a list of parts: what they may be is the chat template's to say.
bool is_message(const json& value) {
  return value.is_object() && value.contains("role") && value["role"].is_string() &&
         value.contains("content") && (value["content"].is_string() || value["content"].is_array());
}

json parse_messages(const json& value, const std::string& origin) {
  if (!value.is_array() || value.empty()) {
    throw_usage(origin + ": messages: expected a non-empty array of {\"role\", \"content\"}");
  }
  for (std::size_t i = 0; i < value.size(); ++i) {
    if (is_message(value[i])) continue;
    throw_usage(origin + ": messages[" + std::to_string(i) +
                "]: expected an object with a \"role\" string and a \"content\", which is a "
                "string or an array of {\"type\": \"text\", \"text\": \"...\"}");
  }
  return value;
}

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

bool is_blank(std::string_view text) {
  return text.find_first_not_of(" \t\r\n") == std::string_view::npos;
}

void remove_byte_order_mark(std::string_view& text) {
  if (text.starts_with(kByteOrderMark)) text.remove_prefix(kByteOrderMark.size());
}

// Lines end with LF, CR LF or CR: none of them can stand inside of a JSON string.
std::string_view take_line(std::string_view& rest) {
  const std::size_t end = std::min(rest.find_first_of("\r\n"), rest.size());
  const std::string_view line = rest.substr(0, end);
  rest.remove_prefix(end);
  rest.remove_prefix(rest.starts_with("\r\n") ? 2 : std::min<std::size_t>(rest.size(), 1));
  return line;
}

std::vector<Prompt> parse_array(std::string_view content, const std::string& path) {
  std::vector<Prompt> prompts;
  for (const json& value : parse_json_text(content, path, false)) {
    prompts.push_back(parse_prompt(value, path + " prompt " + std::to_string(prompts.size() + 1)));
  }
  return prompts;
}

Prompt parse_line(std::string_view line, const std::string& origin) {
  const std::string_view text = line.substr(0, line.find_last_not_of(" \t") + 1);
  try {
    return parse_prompt(parse_json_text(line, origin, false), origin);
  } catch (const Error& error) {
    // Formatted over several lines, the first one opens what it does not close.
    if (std::string_view("{[,:").find(text.back()) == std::string_view::npos) throw;
    throw_usage(error.message() + "; a prompt has to stand on one line");
  }
}

std::vector<Prompt> parse_lines(std::string_view content, const std::string& path) {
  std::vector<Prompt> prompts;
  for (std::size_t number = 1; !content.empty(); ++number) {
    std::string_view line = take_line(content);
    remove_byte_order_mark(line);  // of files that were put one behind the other
    if (is_blank(line)) continue;
    prompts.push_back(parse_line(line, path + " line " + std::to_string(number)));
  }
  return prompts;
}

}  // namespace

json parse_json_text(std::string_view text, const std::string& subject, bool ignore_comments) {
  require_utf8(text, subject);
  require_no_nul(text, subject);
  try {
    DocumentCheck check(subject, text);
    static_cast<void>(json::sax_parse(text.begin(), text.end(), &check, json::input_format_t::json,
                                      /*strict=*/true, ignore_comments));
    return json::parse(text, nullptr, /*allow_exceptions=*/true, ignore_comments);
  } catch (const json::parse_error& error) {
    throw_usage(place_of(subject, text, error.byte == 0 ? 0 : error.byte - 1) + ": " +
                parse_reason(error));
  } catch (const json::exception& error) {
    throw_usage(subject + ": " + error.what());
  }
}

std::string json_type_name(const json& value) {
  switch (value.type()) {
    case json::value_t::null: return "null";
    case json::value_t::object: return "an object";
    case json::value_t::array: return "an array";
    case json::value_t::string: return "a string";
    case json::value_t::boolean: return "a boolean";
    default: return "the number " + value.dump();
  }
}

json Prompt::to_json() const {
  switch (kind) {
    case Kind::kText: return {{"text", text}};
    case Kind::kMessages: return {{"messages", messages}};
    case Kind::kTokenIds: return {{"token_ids", token_ids}};
  }
  return nullptr;
}

Prompt text_prompt(std::string text, std::string origin) {
  if (text.empty()) {
    throw_usage(origin + ": the text is empty: a prompt needs a text, or give its token ids");
  }
  if (valid_utf8(text) != text) throw_usage(origin + ": the text is not valid UTF-8");
  Prompt prompt;
  prompt.text = std::move(text);
  prompt.origin = std::move(origin);
  return prompt;
}

Prompt parse_prompt(const json& value, const std::string& origin) {
  if (value.is_string()) return text_prompt(value.get<std::string>(), origin);
  if (!value.is_object()) {
    throw_usage(origin + ": expected " + kPromptForms + ", found " + json_type_name(value));
  }
  static const std::vector<std::string> kKeys = {"text", "messages", "token_ids"};
  for (const auto& [key, unused] : value.items()) {
    if (std::find(kKeys.begin(), kKeys.end(), key) == kKeys.end()) {
      throw_usage(origin + ": unknown key '" + key + "'" + suggestion(key, kKeys));
    }
  }
  if (value.size() != 1) throw_usage(origin + ": expected exactly one of " + kPromptForms);
  if (value.contains("text")) {
    if (!value["text"].is_string()) {
      throw_usage(origin + ": text: expected a string, found " + json_type_name(value["text"]));
    }
    return text_prompt(value["text"].get<std::string>(), origin);
  }
  Prompt prompt;
  prompt.origin = origin;
  if (value.contains("messages")) {
    prompt.kind = Prompt::Kind::kMessages;
    prompt.messages = parse_messages(value["messages"], origin);
  } else {
    prompt.kind = Prompt::Kind::kTokenIds;
    prompt.token_ids = parse_token_ids(value["token_ids"], origin);
  }
  return prompt;
}

std::vector<Prompt> load_prompts_file(const std::filesystem::path& path) {
  const std::string bytes = read_text_file(path, kMaxPromptsFileBytes);
  require_utf8(bytes, path.string());
  std::string_view content = bytes;
  remove_byte_order_mark(content);
  const std::size_t first = content.find_first_not_of(" \t\r\n");
  const bool is_array = first != std::string_view::npos && content[first] == '[';
  std::vector<Prompt> prompts =
      is_array ? parse_array(content, path.string()) : parse_lines(content, path.string());
  if (prompts.empty()) {
    throw_usage(path.string() + " holds no prompt: write one " + kPromptForms + " a line");
  }
  return prompts;
}

std::vector<Prompt> cut_text_prompts(const std::filesystem::path& path,
                                     std::span<const std::uint64_t> contexts) {
  const std::string bytes = read_text_file(path, kMaxPromptsFileBytes);
  require_utf8(bytes, path.string());
  std::string_view content = bytes;
  remove_byte_order_mark(content);
  const Prompt whole = text_prompt(std::string(content), path.string());
  std::vector<Prompt> prompts;
  for (const std::uint64_t context : contexts) {
    Prompt& prompt = prompts.emplace_back(whole);
    prompt.cut_to_tokens = context;
    prompt.origin = path.string() + " cut to " + counted(context, "token");
  }
  return prompts;
}

}  // namespace kvtool::run
