#include "cli/experiment_config.h"

#include <gmock/gmock.h>

#include "cli/yaml_text.h"
#include "kvtool/base/error.h"
#include "support/error_of.h"
#include "support/folder_test.h"

namespace kvtool::cli {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;

std::string refusal_of(const std::string& text, const std::string& file = "dir/e.json") {
  const Error error = kvtool::error_of([&] { (void)parse_experiment_config(text, file); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage) << text;
  return error.what();
}

// What an entry of an otherwise sound file is refused with.
std::string entry_refusal(const std::string& members) {
  return refusal_of(R"({"experiments": [{"mode": "baseline", )" + members + "}]}");
}

TEST(ExperimentConfig, ReadsEveryKey) {
  const ExperimentConfig config = parse_experiment_config(R"(// a comment
    {"defaults": {"model_name": "m.pt", "num_runs": 5, "context_lengths": 64},
     "experiments": [{"mode": "baseline"},
                     {"mode": "predictive", "model_name": "n.pt", "context_lengths": [8, 16],
                      "num_runs": 2, "max_new_tokens": 7, "page_size": 4, "max_gpu_pages": 9,
                      "prefetch_k": 3, "batch_size": 2, "quantization": null, "dtype": "float32",
                      "temperature": 0.0, "top_p": 1, "top_k": 1, "do_sample": false}],
     "prompts": ["x"], "output_dir": "out", "device": "cpu"})",
                                                          "e.json");
  ASSERT_EQ(config.experiments.size(), 2U);
  EXPECT_EQ(config.experiments[0].model, "m.pt");
  EXPECT_EQ(config.experiments[0].runs, 5U);
  EXPECT_THAT(config.experiments[0].contexts, ElementsAre(64));
  const run::ExperimentSettings& second = config.experiments[1];
  EXPECT_EQ(second.mode, "predictive");
  EXPECT_EQ(second.model, "n.pt");
  EXPECT_THAT(second.contexts, ElementsAre(8, 16));
  EXPECT_EQ(second.runs, 2U);
  EXPECT_EQ(second.max_new_tokens, 7U);
  EXPECT_EQ(second.page_size, 4U);
  EXPECT_EQ(second.max_device_pages, 9U);
  EXPECT_EQ(second.prefetch_k, 3U);
  EXPECT_EQ(second.batch_size, 2U);
  EXPECT_EQ(second.dtype, "float32");
  EXPECT_EQ(config.prompts.size(), 1U);
  EXPECT_EQ(config.output_dir, "out");
  EXPECT_EQ(config.device, "cpu");
}

TEST(ExperimentConfig, ReadsYaml) {
  const ExperimentConfig config = parse_experiment_config(R"(# a comment
experiments:
  - mode: reactive
    model_name: "microsoft/DialoGPT-small"
    context_lengths: [128, 256]
    num_runs: 3
    max_gpu_pages: 50
    quantization: null
  - {mode: predictive, model_name: m, context_lengths: 64, quantization: none}
text: book.txt
)",
                                                          "dir/e.yaml");
  ASSERT_EQ(config.experiments.size(), 2U);
  EXPECT_EQ(config.experiments[0].model, "microsoft/DialoGPT-small");
  EXPECT_THAT(config.experiments[0].contexts, ElementsAre(128, 256));
  EXPECT_EQ(config.experiments[0].max_device_pages, 50U);
  EXPECT_EQ(config.text, "dir/book.txt");
}

TEST(ExperimentConfig, UnknownKeysNameFileKeyAndTheNearest) {
  EXPECT_EQ(entry_refusal(R"("context_lenghts": [8])"),
            "dir/e.json: unknown key 'experiments[0].context_lenghts'; did you mean "
            "'context_lengths'?");
  EXPECT_THAT(refusal_of(R"({"experimnts": []})"),
              HasSubstr("unknown key 'experimnts'; did you mean 'experiments'?"));
  EXPECT_THAT(refusal_of("experiments:\n  - mod: baseline\n", "e.yml"),
              HasSubstr("e.yml: unknown key 'experiments[0].mod'; did you mean 'mode'?"));
}

TEST(ExperimentConfig, RefusesWhatWouldNotBeApplied) {
  EXPECT_THAT(entry_refusal(R"("temperature": 0.7)"),
              HasSubstr("experiments[0].temperature: generation is greedy"));
  EXPECT_THAT(entry_refusal(R"("top_p": 0.9)"), HasSubstr("experiments[0].top_p: generation is"));
  EXPECT_THAT(entry_refusal(R"("top_k": 50)"), HasSubstr("experiments[0].top_k: generation is"));
  EXPECT_THAT(entry_refusal(R"("do_sample": true)"), HasSubstr("do_sample: generation is greedy"));
  EXPECT_THAT(entry_refusal(R"("quantization": "int8")"),
              HasSubstr("experiments[0].quantization: 'int8': weights run as the exported file"));
  EXPECT_THAT(entry_refusal(R"("max_gpu_pages": 4, "max_device_pages": 5)"),
              HasSubstr("max_device_pages and max_gpu_pages are the same"));
  EXPECT_THAT(entry_refusal(R"("num_runs": 0)"), HasSubstr("expected an integer from 1"));
  EXPECT_THAT(entry_refusal(R"("context_lengths": [])"), HasSubstr("at least one integer"));
  EXPECT_THAT(refusal_of("{}"), HasSubstr("experiments: there is none"));
  EXPECT_THAT(refusal_of("[]"), HasSubstr("expected an object with the key experiments"));
}

TEST(ExperimentConfig, TheDefaultOneIsReadBack) {
  for (const bool yaml : {false, true}) {
    const ExperimentConfig config = parse_experiment_config(
        default_experiment_config("Org/Model: x", yaml), yaml ? "e.yaml" : "e.json");
    ASSERT_EQ(config.experiments.size(), run::kExperimentModes.size()) << yaml;
    for (std::size_t i = 0; i < config.experiments.size(); ++i) {
      EXPECT_EQ(config.experiments[i].mode, run::kExperimentModes[i].name);
      EXPECT_EQ(config.experiments[i].model, "Org/Model: x");
      EXPECT_EQ(config.experiments[i].page_size, run::ExperimentSettings().page_size);
    }
  }
}

TEST(ExperimentConfig, TheExamplesAreSound) {
  std::size_t examples = 0;
  for (const auto& entry : std::filesystem::directory_iterator(KVTOOL_CONFIGS_DIR)) {
    if (!entry.path().filename().string().starts_with("experiment")) continue;
    ++examples;
    EXPECT_FALSE(load_experiment_config(entry.path()).experiments.empty()) << entry.path();
  }
  EXPECT_GE(examples, run::kExperimentModes.size());
}

TEST(YamlText, ScalarsAreThoseOfTheCoreSchema) {
  EXPECT_EQ(parse_yaml_text(R"([1, -2, +3, 1.5, 1e3, true, False, null, ~, "1", '2', yes, inf, a b,
                              0o7, !!str 4])",
                            "y"),
            json::parse(R"([1, -2, 3, 1.5, 1000.0, true, false, null, null, "1", "2", "yes", "inf",
                            "a b", "0o7", "4"])"));
  EXPECT_EQ(parse_yaml_text("a: &x {b: 1}\nc: *x\n", "y"),
            json::parse(R"({"a": {"b": 1}, "c": {"b": 1}})"));
  EXPECT_EQ(parse_yaml_text("", "y"), nullptr);
}

std::string yaml_refusal(const std::string& text) {
  const Error error = kvtool::error_of([&] { (void)parse_yaml_text(text, "y.yaml"); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage) << text;
  return error.what();
}

TEST(YamlText, ErrorsHaveLineAndColumn) {
  EXPECT_THAT(yaml_refusal("a: [1\nb: 2"), HasSubstr("y.yaml:2:2: "));
  EXPECT_EQ(yaml_refusal("a: 1\nb: 2\na: 3\n"), "y.yaml:3:1: the key 'a' is there twice");
  EXPECT_EQ(yaml_refusal("[1]: 2\n"), "y.yaml:1:1: a key has to be a string");
  EXPECT_THAT(yaml_refusal(std::string(70, '[') + std::string(70, ']')),
              HasSubstr("nested deeper than 64"));
  std::string bomb = "a0: &a0 [1, 1]\n";
  for (int i = 1; i < 30; ++i) {
    bomb += "a" + std::to_string(i) + ": &a" + std::to_string(i) + " [*a" + std::to_string(i - 1) +
            ", *a" + std::to_string(i - 1) + "]\n";
  }
  EXPECT_THAT(yaml_refusal(bomb), HasSubstr("more than 100000 values"));
}

}  // namespace
}  // namespace kvtool::cli
