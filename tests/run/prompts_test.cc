// Prompts files as other tools write them: read, or refused with the reason.
#include "kvtool/run/prompts.h"

#include <gmock/gmock.h>

#include "kvtool/base/error.h"
#include "support/folder_test.h"

namespace kvtool::run {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

constexpr const char* kMark = "\xEF\xBB\xBF";
const std::string kOne = R"({"text": "one"})";
const std::string kTwo = R"({"text": "two"})";

class PromptsFile : public FolderTest {
 protected:
  static std::vector<Prompt> load(const std::string& content) {
    write("p.jsonl", content);
    return load_prompts_file("p.jsonl");
  }
  static std::vector<std::string> texts(const std::string& content) {
    std::vector<std::string> result;
    for (const Prompt& prompt : load(content)) result.push_back(prompt.text);
    return result;
  }
  static std::string refusal(const std::string& content) {
    try {
      static_cast<void>(load(content));
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kUsage);
      return error.what();
    }
    return "accepted";
  }
  // ASCII in units of `width` bytes.
  static std::string widened(const std::string& text, std::size_t width, bool little) {
    std::string result;
    for (const char c : text) {
      if (!little) result.append(width - 1, '\0');
      result += c;
      if (little) result.append(width - 1, '\0');
    }
    return result;
  }
};

TEST_F(PromptsFile, LinesEndAsAnySystemEndsThem) {
  for (const char* end : {"\n", "\r\n", "\r"}) {
    for (const char* mark : {"", kMark}) {
      EXPECT_THAT(texts(mark + kOne + end + end + " \t" + end + kTwo), ElementsAre("one", "two"));
      EXPECT_THAT(texts(std::string(mark) + end + kOne + end), ElementsAre("one"));
    }
  }
  EXPECT_EQ(load(kOne + "\r\n\r\n" + kTwo)[1].origin, "p.jsonl line 3");
}

TEST_F(PromptsFile, FilesPutOneBehindTheOtherKeepTheirMarks) {
  EXPECT_THAT(texts(kMark + kOne + "\n" + kMark + kTwo + "\n" + kMark), ElementsAre("one", "two"));
}

TEST_F(PromptsFile, SeparatorsOfUnicodeEndNoLine) {
  EXPECT_THAT(texts("{\"text\": \"a\xE2\x80\xA8"
                    "b\xC2\x85\"}\n"),
              ElementsAre("a\xE2\x80\xA8"
                          "b\xC2\x85"));
}

TEST_F(PromptsFile, OneArrayHoldsThePrompts) {
  for (const char* mark : {"", kMark, "\n"}) {
    EXPECT_THAT(texts(mark + std::string("[\n") + kOne + ",\n" + kTwo + "]\n"),
                ElementsAre("one", "two"));
  }
  EXPECT_THAT(texts(R"(["one", {"text": "two"}])"), ElementsAre("one", "two"));
  EXPECT_EQ(load("[" + kOne + "]")[0].origin, "p.jsonl prompt 1");
  EXPECT_THAT(refusal("[" + kOne + ", 5]"), StartsWith("p.jsonl prompt 2: expected {"));
  EXPECT_THAT(refusal("[" + kOne + "\n"), StartsWith("p.jsonl:"));
  EXPECT_THAT(refusal("[]"), HasSubstr("holds no prompt"));
}

TEST_F(PromptsFile, OtherEncodingsAreNamed) {
  const std::string text = kOne + "\n";
  const struct {
    std::string content;
    std::string name;
  } cases[] = {
      {"\xFF\xFE" + widened(text, 2, true), "UTF-16 (little-endian)"},
      {"\xFE\xFF" + widened(text, 2, false), "UTF-16 (big-endian)"},
      {widened(text, 2, true), "UTF-16 (little-endian)"},
      {widened(text, 2, false), "UTF-16 (big-endian)"},
      {std::string("\xFF\xFE\0\0", 4) + widened(text, 4, true), "UTF-32 (little-endian)"},
      {std::string("\0\0\xFE\xFF", 4) + widened(text, 4, false), "UTF-32 (big-endian)"},
      {widened(text, 4, true), "UTF-32 (little-endian)"},
      {widened(text, 4, false), "UTF-32 (big-endian)"},
      {"\xFF\xFE", "UTF-16 (little-endian)"},
  };
  for (const auto& [content, name] : cases) {
    EXPECT_EQ(refusal(content), "p.jsonl is " + name + ": save it as UTF-8");
  }
  EXPECT_THAT(refusal("{\"text\": \"caf\xE9\"}\n"), HasSubstr("UTF-8"));
}

TEST_F(PromptsFile, NothingIsSaidToBeNothing) {
  for (const char* content : {"", "\n \r\n", kMark, "\xEF\xBB\xBF\n"}) {
    EXPECT_THAT(refusal(content), HasSubstr("holds no prompt"));
  }
  for (const char* empty : {"\"\"", R"({"text": ""})"}) {
    EXPECT_THAT(refusal(kOne + "\n" + empty), StartsWith("p.jsonl line 2: the text is empty"));
  }
  EXPECT_THAT(refusal(R"({"token_ids": []})"), StartsWith("p.jsonl line 1: token_ids is empty"));
  EXPECT_THAT(texts(R"({"text": " "})"), ElementsAre(" ")) << "a space is a text";
}

TEST_F(PromptsFile, AnObjectOverSeveralLinesIsToldToBeOne) {
  for (const char* content : {"{\n \"text\": \"one\"\n}\n", "{\"text\":\n\"one\"}",
                              "{\"messages\": [{\n", "{\"text\": \"a\",\n\"b\": 1}"}) {
    const std::string message = refusal(content);
    EXPECT_THAT(message, StartsWith("p.jsonl line 1:"));
  }
  EXPECT_THAT(refusal("{\n \"text\": \"one\"\n}\n"), HasSubstr("has to stand on one line"));
}

TEST_F(PromptsFile, ContentOfMessagesIsATextOrParts) {
  const auto prompt = [](const std::string& content) {
    return R"({"messages": [{"role": "user", "content": )" + content + "}]}";
  };
  const auto parts = load(prompt(R"([{"type": "text", "text": "a"}])"));
  EXPECT_EQ(parts[0].to_json()["messages"][0]["content"][0]["text"], "a");
  EXPECT_EQ(load(prompt("\"a\"")).size(), 1U);
  for (const char* bad : {"5", "null", "{}", "true"}) {
    EXPECT_THAT(refusal(prompt(bad)), HasSubstr("messages[0]: expected an object with"));
  }
}

TEST(TextPrompt, IsUtf8) {
  EXPECT_EQ(text_prompt("caf\xC3\xA9", "--prompt 1").text, "caf\xC3\xA9");
  for (const char* bad : {"caf\xE9", "\xED\xA0\x80", "\xFF"}) {
    EXPECT_THROW(static_cast<void>(text_prompt(bad, "--prompt 1")), Error);
  }
}

}  // namespace
}  // namespace kvtool::run
