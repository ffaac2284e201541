#include "kvtool/run/prompt_encoder.h"

#include <gmock/gmock.h>

#include "kvtool/base/error.h"

namespace kvtool::run {
namespace {

using testing::HasSubstr;

const std::vector<Prompt> kPrompts = {text_prompt("a", "--prompt 1"), text_prompt("b", "p line 7")};

std::string encoding_error(int exit_status, const std::string& output, ErrorCode code,
                           const std::string& error_output = "") {
  try {
    static_cast<void>(encode_prompts(kPrompts, "m.pt", [&](const auto&, std::string_view) {
      return ProcessResult{exit_status, output, error_output};
    }));
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code);
    return error.what();
  }
  return "no error";
}

TEST(EncodePrompts, KeepsTheOrder) {
  const auto encoded = encode_prompts(kPrompts, "m.pt", [](const auto&, std::string_view input) {
    EXPECT_EQ(input, R"({"prompts":[{"text":"a"},{"text":"b"}]})");
    return ProcessResult{
        0, R"({"prompts": [{"token_ids": [1], "text": "A"}, {"token_ids": [2, 3], "text": null}]})",
        ""};
  });
  ASSERT_EQ(encoded.size(), 2U);
  EXPECT_EQ(encoded[0].text, "A");
  EXPECT_EQ(encoded[1].token_ids, (std::vector<std::int32_t>{2, 3}));
}

TEST(EncodePrompts, ABadPromptNamesItsOrigin) {
  EXPECT_EQ(encoding_error(2, R"({"error": "prompt 1: no template", "prompt_index": 1})",
                           ErrorCode::kUsage),
            "p line 7: no template");
}

TEST(EncodePrompts, AMissingPackageIsTheEnvironment) {
  EXPECT_THAT(encoding_error(5, R"({"error": "no tokenizers", "prompt_index": null})",
                             ErrorCode::kEnvironment),
              HasSubstr("no tokenizers"));
}

TEST(EncodePrompts, ACrashShowsWhatTheHelperPrinted) {
  EXPECT_THAT(encoding_error(1, "", ErrorCode::kEnvironment, "Traceback\nImportError: x\n"),
              HasSubstr("exit status 1): Traceback\nImportError: x\n"));
}

TEST(EncodePrompts, RefusesAnswersThatDoNotFit) {
  EXPECT_THAT(encoding_error(0, R"({"prompts": []})", ErrorCode::kEnvironment),
              HasSubstr("number"));
  EXPECT_THAT(encoding_error(0, R"({"prompts": [{}, {}]})", ErrorCode::kEnvironment),
              HasSubstr("without token ids"));
  EXPECT_THAT(encoding_error(0, R"({"prompts": [{"token_ids": [1]}, {"token_ids": []}]})",
                             ErrorCode::kUsage),
              HasSubstr("p line 7 has no token"));
}

}  // namespace
}  // namespace kvtool::run
