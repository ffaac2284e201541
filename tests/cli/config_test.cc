#include "cli/config.h"

#include <gmock/gmock.h>

#include "cli_fixture.h"
#include "kvtool/base/error.h"

namespace kvtool::cli {
namespace {

using testing::HasSubstr;

std::string error_of(const std::string& text) {
  try {
    static_cast<void>(parse_config(text, "dir/c.json"));
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUsage);
    return error.what();
  }
  return "no error";
}

TEST(Config, ReadsEveryKey) {
  const Config config = parse_config(R"(// a comment
    {"models": ["a", "b"], "batch_size": [1, 4], "request_number": 8, "max_new_tokens": 16,
     "cpu": "Enable", /* another */
     "prompts": ["x", {"text": "y"}, {"messages": [{"role": "user", "content": "z"}]},
                 {"token_ids": [1, 2]}],
     "kv_cache": {"policy": "int8", "save": true, "save_mode": "final_only", "load": true,
                  "load_from_device": "CPU", "load_from_batch_size": 4,
                  "load_base_dir": "r", "base_dir": "o/{timestamp}"}})",
                                     "c.json");
  EXPECT_EQ(config.models, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(config.batch_sizes, (std::vector<std::uint64_t>{1, 4}));
  EXPECT_EQ(config.request_number, 8U);
  EXPECT_EQ(config.max_new_tokens, 16U);
  EXPECT_EQ(config.force_cpu, true);
  ASSERT_EQ(config.prompts.size(), 4U);
  EXPECT_EQ(config.prompts[0].text, "x");
  EXPECT_EQ(config.prompts[2].kind, run::Prompt::Kind::kMessages);
  EXPECT_EQ(config.prompts[3].token_ids, (std::vector<std::int32_t>{1, 2}));
  EXPECT_EQ(config.kv_cache.policy, cache::CacheSpec::parse("int8"));
  EXPECT_EQ(config.kv_cache.save, true);
  EXPECT_EQ(config.kv_cache.save_mode, format::SaveMode::kFinalOnly);
  EXPECT_EQ(config.kv_cache.load, true);
  EXPECT_EQ(config.kv_cache.load_from_device, "CPU");
  EXPECT_EQ(config.kv_cache.load_from_batch_size, 4U);
  EXPECT_EQ(config.kv_cache.load_base_dir, "r");
  EXPECT_EQ(config.kv_cache.base_dir, "o/{timestamp}");
}

TEST(Config, ABatchSizeMayBeANumber) {
  EXPECT_EQ(parse_config(R"({"batch_size": 4})", "c.json").batch_sizes,
            (std::vector<std::uint64_t>{4}));
}

TEST(Config, IsUtf8WithOrWithoutAMark) {
  EXPECT_EQ(parse_config("\xEF\xBB\xBF{\"batch_size\": 4}\r\n", "c.json").batch_sizes.size(), 1U);
  EXPECT_EQ(error_of(std::string("\xFF\xFE{\0}\0", 6)),
            "dir/c.json is UTF-16 (little-endian): save it as UTF-8");
  EXPECT_EQ(error_of(std::string("\0{\0}", 4)),
            "dir/c.json is UTF-16 (big-endian): save it as UTF-8");
}

TEST(Config, SyntaxErrorsHaveLineAndColumn) {
  EXPECT_THAT(error_of("{\n  \"models\": [\"a\"\n  \"cpu\": 1}"), HasSubstr("dir/c.json:3:7: "));
  EXPECT_THAT(error_of(""), HasSubstr("dir/c.json:1:1: "));
}

TEST(Config, UnknownKeysNameTheNearest) {
  EXPECT_EQ(error_of(R"({"batchsize": 1})"),
            "dir/c.json: unknown key 'batchsize'; did you mean 'batch_size'?");
  EXPECT_EQ(error_of(R"({"kv_cache": {"savemode": 1}})"),
            "dir/c.json: unknown key 'kv_cache.savemode'; did you mean 'save_mode'?");
  EXPECT_EQ(error_of(R"({"temperature": 1})"), "dir/c.json: unknown key 'temperature'");
}

TEST(Config, WrongTypesNameTheKeysPath) {
  EXPECT_EQ(error_of(R"({"kv_cache": {"save": "yes"}})"),
            "dir/c.json: kv_cache.save: expected true or false, found \"yes\"");
  EXPECT_EQ(error_of(R"({"models": ["a", 3]})"),
            "dir/c.json: models[1]: expected a string, found the number 3");
  EXPECT_EQ(
      error_of(R"({"batch_size": [1, 0]})"),
      "dir/c.json: batch_size[1]: expected an integer from 1 to 2147483647, found the number 0");
  EXPECT_EQ(
      error_of(R"({"request_number": 1.5})"),
      "dir/c.json: request_number: expected an integer from 1 to 2147483647, found the number 1.5");
  EXPECT_EQ(error_of(R"({"cpu": true})"),
            "dir/c.json: cpu: expected \"Enable\" or \"Disable\", found a boolean");
  EXPECT_EQ(error_of(R"({"kv_cache": {"save_mode": "deltas"}})"),
            "dir/c.json: kv_cache.save_mode: expected \"delta\", \"prefill_only\" or "
            "\"final_only\", found \"deltas\"");
  EXPECT_EQ(error_of(R"([])"), "dir/c.json: expected an object { ... }, found an array");
  EXPECT_THAT(error_of(R"({"prompts": [{"txt": "a"}]})"),
              HasSubstr("prompts[0]: unknown key 'txt'; did you mean 'text'?"));
}

TEST(Config, KeysMayNotStandTwice) {
  EXPECT_EQ(error_of(R"({"cpu": "Enable", "cpu": "Disable"})"),
            "dir/c.json: key 'cpu' stands twice in one object");
}

TEST(Config, NestingIsBounded) {
  const std::string deep(200'000, '[');
  for (const char* start : {R"({"prompts": [{"messages": [{"role": "a", "content": "b", "x": )",
                            R"({"prompts": [{"token_ids": )"}) {
    EXPECT_EQ(error_of(start + deep), "dir/c.json: nested deeper than 64");
  }
}

TEST(Config, ReplayModesAreOneOrSeveral) {
  const auto modes = [](std::string_view text) {
    return parse_config(text, "dir/c.json").kv_cache.replay_modes;
  };
  EXPECT_THAT(modes(R"({"kv_cache": {"replay_modes": "forced"}})"),
              testing::ElementsAre(format::ReplayMode::kForced));
  EXPECT_THAT(modes(R"({"kv_cache": {"replay_modes": ["inject", "free"]}})"),
              testing::ElementsAre(format::ReplayMode::kInject, format::ReplayMode::kFree));
  EXPECT_EQ(error_of(R"({"kv_cache": {"replay_modes": ["inject", "fre"]}})"),
            "dir/c.json: kv_cache.replay_modes[1]: expected \"inject\", \"forced\" or \"free\", "
            "found \"fre\"");
}

TEST(Config, AGateIsANameOrAnObject) {
  EXPECT_EQ(parse_config(R"({"gate": "16bit-cross"})", "dir/c.json").gate->name(), "16bit-cross");
  EXPECT_EQ(parse_config(R"({"gate": {"name": "own", "base": "fp8"}})", "c.json").gate->name(),
            "own");
  EXPECT_THAT(error_of(R"({"gate": 3})"), HasSubstr("dir/c.json: gate: expected"));
  EXPECT_THAT(error_of(R"({"gate": {"rules": {"inject.kl.p98": {"max": 1}}}})"),
              HasSubstr("inject.kl.p99"));
}

class ConfigFiles : public FolderTest {};

TEST_F(ConfigFiles, AGateFileIsRelativeToTheConfiguration) {
  write("sub/gate.json", R"({"name": "beside", "base": "same-device"})");
  write("sub/c.json", R"({"gate": "gate.json"})");
  EXPECT_EQ(load_config("sub/c.json").gate->name(), "beside");
}

TEST_F(ConfigFiles, APromptsFileIsRelativeToTheConfiguration) {
  write("sub/p.jsonl", "{\"text\": \"a\"}\n\n{\"token_ids\": [5]}\n");
  write("sub/c.json", R"({"prompts": "p.jsonl"})");
  const Config config = load_config("sub/c.json");
  ASSERT_EQ(config.prompts.size(), 2U);
  EXPECT_EQ(config.prompts[1].origin, "sub/p.jsonl line 3");
}

TEST_F(ConfigFiles, APromptsFileNamesTheBadLine) {
  write("p.jsonl", "{\"text\": \"a\"}\n{\"text\": }\n");
  try {
    static_cast<void>(run::load_prompts_file("p.jsonl"));
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("p.jsonl line 2"));
  }
  write("empty.jsonl", "\n");
  EXPECT_THROW(static_cast<void>(run::load_prompts_file("empty.jsonl")), Error);
}

TEST(ExampleConfigurations, AllLoad) {
  const std::filesystem::path folder = KVTOOL_CONFIGS_DIR;
  const auto load = [&](const char* name) { return load_config(folder / name); };
  const Config generate = load("generate.json");
  EXPECT_EQ(generate.kv_cache.save, false);
  EXPECT_EQ(generate.kv_cache.load, false);
  EXPECT_EQ(load("save.json").kv_cache.save, true);
  EXPECT_EQ(load("save.json").prompts.size(), 8U);
  EXPECT_EQ(load("replay.json").kv_cache.load, true);
  const Config both = load("replay_save.json");
  EXPECT_EQ(both.kv_cache.load, true);
  EXPECT_EQ(both.kv_cache.save, true);
  EXPECT_EQ(run::load_prompts_file(folder / "prompts.jsonl").size(), 8U);
}

TEST(Config, NumbersOfAnySizeGetAClearLine) {
  EXPECT_EQ(error_of("{\n \"max_new_tokens\": 1e999}"),
            "dir/c.json:2:20: the number 1e999 is too large");
  EXPECT_EQ(error_of(R"({"prompts": [{"token_ids": [-1e400]}]})"),
            "dir/c.json:1:29: the number -1e400 is too large");
  EXPECT_EQ(error_of(R"({"batch_size": 1000000000000})"),
            "dir/c.json: batch_size: expected an integer from 1 to 2147483647, found the number "
            "1000000000000");
}

TEST(Config, ANulByteEndsNoText) {
  using std::string_literals::operator""s;
  EXPECT_EQ(error_of("{}\n{\0"s), "dir/c.json:2:2: a NUL byte, which no text holds");
  EXPECT_EQ(error_of("{}\0"s), "dir/c.json:1:3: a NUL byte, which no text holds");
}

}  // namespace
}  // namespace kvtool::cli
