#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "kvtool/analysis/gate.h"
#include "support/error_of.h"

namespace kvtool::analysis {
namespace {

using nlohmann::json;
using testing::Test;

const GateContext kContext = {.model = "meta-llama/Llama-3.1-8B",
                              .model_slug = "meta_llama_llama_3_1_8b",
                              .dtype = "bfloat16",
                              .reference_device = "NVIDIA_H200",
                              .device = "CPU",
                              .cache = "paged:page=16"};

GateSpec parse(const char* text) { return GateSpec::parse(json::parse(text), "gate.json"); }

std::optional<GateRule> rule_of(const Gate& gate, const std::string& figure) {
  const auto found = std::find_if(gate.rules.begin(), gate.rules.end(),
                                  [&](const GateRule& rule) { return rule.figure == figure; });
  return found == gate.rules.end() ? std::nullopt : std::optional(*found);
}

std::optional<double> max_of(const Gate& gate, const std::string& figure) {
  const auto rule = rule_of(gate, figure);
  return rule ? rule->max : std::nullopt;
}

std::string message_of(const char* text) {
  const Error error = error_of([&] { (void)parse(text); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  return error.what();
}

void expect_message(const char* text, const std::string& part) {
  EXPECT_NE(message_of(text).find(part), std::string::npos) << message_of(text);
}

TEST(GateSpec, EveryGateInheritsFlipsNonFiniteValuesAndTies) {
  const Gate gate = parse("{}").resolve(kContext);
  EXPECT_EQ(gate.name, "gate.json");
  EXPECT_EQ(gate.flip_bounds.near_tie_ulps, 2.0);
  EXPECT_EQ(gate.rules.size(), 4U);
  EXPECT_EQ(max_of(gate, "*.tokens.hard_flips"), 0.0);
  EXPECT_EQ(max_of(gate, "*.tokens.nonfinite"), 0.0);
  EXPECT_EQ(max_of(gate, "*.kv.*.nonfinite"), 0.0);
  EXPECT_EQ(max_of(gate, "*.tokens.tie_rate"), 0.02);
}

TEST(GateSpec, ReadsNameDescriptionToleranceAndRules) {
  const Gate gate = parse(R"({"name": "nightly", "description": "for CI", "near_tie_ulps": 3,
      "rules": {"inject.kl.p99": {"max": 0.01}, "inject.tokens.match_rate": {"min": 0.9, "max": 1}},
      "evidence": {"anything": [1, null]}})")
                        .resolve(kContext);
  EXPECT_EQ(gate.name, "nightly");
  EXPECT_EQ(gate.description, "for CI");
  EXPECT_EQ(gate.flip_bounds.near_tie_ulps, 3.0);
  EXPECT_EQ(max_of(gate, "inject.kl.p99"), 0.01);
  EXPECT_EQ(rule_of(gate, "inject.tokens.match_rate")->min, 0.9);
}

TEST(GateSpec, FileReplacesARuleOfItsBaseAndKeepsTheOthers) {
  const Gate base = GateSpec::builtin("16bit-cross").resolve(kContext);
  const Gate gate =
      parse(R"({"base": "16bit-cross", "rules": {"inject.kl.p99": {"max": 7}}})").resolve(kContext);
  EXPECT_EQ(max_of(gate, "inject.kl.p99"), 7.0);
  EXPECT_EQ(max_of(gate, "inject.kl.median"), max_of(base, "inject.kl.median"));
  EXPECT_EQ(gate.rules.size(), base.rules.size());
}

TEST(GateSpec, NullDropsAnInheritedRule) {
  const Gate gate = parse(R"({"rules": {"*.tokens.tie_rate": null}})").resolve(kContext);
  EXPECT_FALSE(rule_of(gate, "*.tokens.tie_rate"));
  EXPECT_TRUE(rule_of(gate, "*.tokens.hard_flips"));
}

TEST(GateSpec, NullThatDropsNothingIsAnError) {
  expect_message(
      R"({"rules": {"inject.tokens.hard_flips": null}})",
      "gate.json: rules[\"inject.tokens.hard_flips\"]: null drops an inherited rule, and none "
      "has this name; did you mean '*.tokens.hard_flips'?");
}

TEST(GateSpec, OverrideMayDropWhatTheFileSets) {
  const GateSpec spec = parse(R"({"rules": {"inject.kl.p99": {"max": 1}},
      "overrides": [{"device": "cpu", "rules": {"inject.kl.p99": null}}]})");
  EXPECT_FALSE(rule_of(spec.resolve(kContext), "inject.kl.p99"));
  GateContext other = kContext;
  other.device = "NVIDIA_L4";
  EXPECT_TRUE(rule_of(spec.resolve(other), "inject.kl.p99"));
}

struct OverrideCase {
  const char* selector;
  bool applies;
};

class GateSpecOverride : public testing::TestWithParam<OverrideCase> {};

TEST_P(GateSpecOverride, IsChosenByPatternsWithoutRegardToCase) {
  json document = {{"overrides", {json::parse(GetParam().selector)}}};
  document["overrides"][0]["near_tie_ulps"] = 5;
  const Gate gate = GateSpec::parse(document, "gate.json").resolve(kContext);
  EXPECT_EQ(gate.flip_bounds.near_tie_ulps, GetParam().applies ? 5.0 : 2.0);
}

INSTANTIATE_TEST_SUITE_P(
    Selectors, GateSpecOverride,
    testing::Values(OverrideCase{"{}", true}, OverrideCase{R"({"model": "Meta-Llama/*"})", true},
                    OverrideCase{R"({"model": "meta_llama_*"})", true},
                    OverrideCase{R"({"model": "llama"})", false},
                    OverrideCase{R"({"dtype": "bfloat16"})", true},
                    OverrideCase{R"({"dtype": "float16"})", false},
                    OverrideCase{R"({"reference_device": "NVIDIA_H?00"})", true},
                    OverrideCase{R"({"reference_device": "CPU"})", false},
                    OverrideCase{R"({"device": "cpu"})", true},
                    OverrideCase{R"({"device": "NVIDIA_*"})", false},
                    OverrideCase{R"({"reference_cache": "contiguous"})", true},
                    OverrideCase{R"({"reference_cache": "int8"})", false},
                    OverrideCase{R"({"cache": "paged:*"})", true},
                    OverrideCase{R"({"cache": "paged"})", false},
                    OverrideCase{R"({"model": "*8b", "dtype": "b*", "device": "CPU"})", true},
                    OverrideCase{R"({"model": "*8b", "dtype": "f*", "device": "CPU"})", false}));

TEST(GateSpec, LaterOverrideWins) {
  const Gate gate = parse(R"({"overrides": [
      {"dtype": "bfloat16", "rules": {"inject.kl.p99": {"max": 1}, "inject.kl.max": {"max": 1}}},
      {"device": "CPU", "rules": {"inject.kl.p99": {"max": 2}}}]})")
                        .resolve(kContext);
  EXPECT_EQ(max_of(gate, "inject.kl.p99"), 2.0);
  EXPECT_EQ(max_of(gate, "inject.kl.max"), 1.0);
}

TEST(GateSpec, UnknownKeysAreErrorsWithTheNearestKnownOne) {
  expect_message(R"({"rule": {}})", "gate.json: unknown key 'rule'; did you mean 'rules'?");
  expect_message(R"({"overrides": [{"modell": "x"}]})",
                 "unknown key 'overrides[0].modell'; did you mean 'model'?");
  expect_message(R"({"rules": {"inject.kl.p99": {"maximum": 1}}})",
                 "unknown key 'rules[\"inject.kl.p99\"].maximum'");
}

TEST(GateSpec, UnknownFiguresAreErrorsWithTheNearestKnownOne) {
  expect_message(R"({"rules": {"inject.kl.p98": {"max": 1}}})",
                 "gate.json: rules[\"inject.kl.p98\"]: no run has a figure of this name; did you "
                 "mean 'inject.kl.p99'?");
  expect_message(R"({"rules": {"*.tokens.hard_flip": {"max": 1}}})",
                 "did you mean '*.tokens.hard_flips'?");
  expect_message(R"({"overrides": [{"rules": {"injekt.kl.p99": {"max": 1}}}]})",
                 "gate.json: overrides[0].rules[\"injekt.kl.p99\"]");
}

TEST(GateSpec, UnknownBaseIsAnErrorThatListsTheBuiltIns) {
  expect_message(R"({"base": "16-bit-cross"})",
                 "gate.json: base: there is no built-in gate '16-bit-cross'; did you mean "
                 "'16bit-cross'?; there are same-device, fp32-cross, 16bit-cross, fp8");
}

TEST(GateSpec, BoundsAreFiniteOrderedNumbers) {
  expect_message(R"({"rules": {"inject.kl.p99": {"max": "1"}}})",
                 "gate.json: rules[\"inject.kl.p99\"].max: expected a finite number, found \"1\"");
  expect_message(R"({"rules": {"inject.kl.p99": {"min": 2, "max": 1}}})",
                 "min 2.0 is above max 1.0");
  expect_message(R"({"rules": {"inject.kl.p99": {}}})", "expected \"min\", \"max\" or both");
  const json infinite = {{"rules", {{"inject.kl.p99", {{"max", 1e308 * 10}}}}}};
  EXPECT_EQ(error_of([&] { (void)GateSpec::parse(infinite, "x"); }).code(), ErrorCode::kUsage);
}

TEST(GateSpec, WrongTypesAreErrorsWithTheirPlace) {
  expect_message("[]", "gate.json: expected an object { ... }, found array");
  expect_message(R"({"rules": []})", "gate.json: rules: expected an object of figures");
  expect_message(R"({"rules": {"inject.kl.p99": 1}})", "expected an object { ... }, found 1");
  expect_message(R"({"overrides": {}})", "gate.json: overrides: expected an array");
  expect_message(R"({"name": ""})", "gate.json: name: expected a non-empty string");
  expect_message(R"({"near_tie_ulps": 0.5})", "expected a number of at least 1, found 0.5");
  expect_message(R"({"overrides": [{"device": "CPU"}]})", "overrides[0]: changes nothing");
}

TEST(GateSpec, UnknownBuiltInIsAnErrorThatListsThem) {
  const Error error = error_of([] { (void)GateSpec::builtin("fp16"); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_NE(std::string(error.what()).find("there are same-device, fp32-cross, 16bit-cross, fp8"),
            std::string::npos);
}

// kContext for recordings without a sample of logits, for those with one, and for those of a
// mixture of experts.
std::vector<GateContext> every_context() {
  std::vector<GateContext> contexts(3, kContext);
  contexts[1].measures_noise = contexts[2].measures_noise = true;
  contexts[2].routed_layers = {true};
  return contexts;
}

void expect_known_figures(std::string_view name, const GateContext& context) {
  const Gate gate = GateSpec::builtin(name).resolve(context);
  EXPECT_EQ(gate.name, name);
  EXPECT_FALSE(gate.description.empty());
  json document;
  for (const GateRule& rule : gate.rules) {
    if (rule.max) document["rules"][rule.figure]["max"] = *rule.max;
    if (rule.min) document["rules"][rule.figure]["min"] = *rule.min;
  }
  EXPECT_NO_THROW((void)GateSpec::parse(document, std::string(name)));
}

TEST(BuiltinGates, NameOnlyFiguresThatExist) {
  for (const std::string_view name : builtin_gate_names()) {
    for (const GateContext& context : every_context()) expect_known_figures(name, context);
  }
}

// Every known figure of the named stretches at its ideal value.
Figures perfect(const std::vector<std::string>& stretches) {
  const std::vector<std::string> ideal_one = {
      "match_rate",    "match_rate_lower95", "cosine",         "explained_rate_lower95",
      "bitwise_rate",  "top1_agreement",     "top5_agreement", "agreed_fraction",
      "top5_accuracy", "top100_agreement",   "pearson",        "flips_p",
      "hard_flips_p"};
  Figures figures;
  for (const std::string& figure : known_figures()) {
    const std::string stretch = figure.substr(0, figure.find('.'));
    const std::string last = figure.substr(figure.rfind('.') + 1);
    if (std::find(stretches.begin(), stretches.end(), stretch) == stretches.end()) continue;
    figures[figure] =
        std::find(ideal_one.begin(), ideal_one.end(), last) == ideal_one.end() ? 0.0 : 1.0;
  }
  return figures;
}

class BuiltinGate : public testing::TestWithParam<std::string> {
 protected:
  static void expect(bool passes, const Figures& figures, const std::string& what = "") {
    for (const GateContext& context : every_context()) {
      const Gate gate = GateSpec::builtin(GetParam()).resolve(context);
      EXPECT_EQ(evaluate(gate, figures).passed, passes)
          << what << ", noise measured: " << context.measures_noise
          << ", routed: " << context.is_routed();
    }
  }
};

TEST_P(BuiltinGate, PassesWhatIsPerfect) {
  expect(true, perfect({"prefill", "inject"}));
  expect(true, perfect({"prefill", "inject", "forced", "free"}));
}

TEST_P(BuiltinGate, DemandsInjectAndThePrefill) {
  expect(false, perfect({"prefill", "forced", "free"}));
  expect(false, perfect({"inject"}));
}

TEST_P(BuiltinGate, FailsNaNInEveryStretch) {
  for (const char* stretch : {"prefill", "inject", "forced", "free"}) {
    for (const char* figure : {".tokens.nonfinite", ".kv.key.nonfinite", ".kv.value.nonfinite"}) {
      Figures figures = perfect({"prefill", "inject", "forced", "free"});
      figures[std::string(stretch) + figure] = 1.0;
      expect(false, figures, std::string(stretch) + figure);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, BuiltinGate,
                         testing::Values("same-device", "fp32-cross", "16bit-cross", "fp8"));

TEST(SameDeviceGate, FailsOneDifferingBit) {
  const Gate gate = GateSpec::builtin("same-device").resolve(kContext);
  const std::vector<std::string> stretches = {"prefill", "inject", "forced", "free"};
  for (const std::string& stretch : stretches) {
    for (const auto& [figure, value] :
         {std::pair(".logits.bitwise_rate", 0.999), std::pair(".kv.key.differing_rate", 1e-9),
          std::pair(".kv.value.differing_rate", 1e-9), std::pair(".tokens.match_rate", 0.999),
          std::pair(".tokens.uncompared", 1.0)}) {
      Figures figures = perfect(stretches);
      figures[stretch + figure] = value;
      EXPECT_FALSE(evaluate(gate, figures).passed) << stretch << figure;
    }
  }
}

// AVX-512 against AVX2, SmolLM2-135M in bf16: the worst of single inputs
// (docs/gates.md), the hardest that is still noise.
Figures measured_noise() {
  Figures figures = perfect({"prefill", "inject", "forced"});
  for (const auto& [figure, value] : std::initializer_list<std::pair<const char*, double>>{
           {"inject.kl.p99", 0.0257},
           {"inject.kv.key.layer_max.relative_l2", 0.0094},
           {"inject.kv.key.layer_max.scale_error", 0.0020},
           {"inject.kv.key.head_max.scale_error", 0.0027},
           {"inject.kv.key.row_max.relative_l2", 0.0332},
           {"inject.kv.value.layer_max.relative_l2", 0.0224},
           {"inject.kv.value.layer_max.scale_error", 0.0023},
           {"inject.kv.value.head_max.scale_error", 0.0039},
           {"inject.kv.value.row_max.relative_l2", 0.0807},
           {"prefill.kl.p99", 0.0019},
           {"prefill.kv.key.layer_max.relative_l2", 0.0178},
           {"prefill.kv.key.layer_max.scale_error", 0.0027},
           {"prefill.kv.key.head_max.scale_error", 0.0031},
           {"prefill.kv.key.row_max.relative_l2", 0.0911},
           {"prefill.kv.value.layer_max.relative_l2", 0.0333},
           {"prefill.kv.value.layer_max.scale_error", 0.0052},
           {"prefill.kv.value.head_max.scale_error", 0.0065},
           {"prefill.kv.value.row_max.relative_l2", 0.1699},
           {"prefill.tokens.compared", 8},
           {"prefill.tokens.tie_rate", 0.125},
           {"inject.tokens.compared", 722},
           {"inject.tokens.tie_rate", 0.0083}}) {
    EXPECT_TRUE(figures.contains(figure)) << figure;
    figures[figure] = value;
  }
  // The estimate is above the bound.
  for (const std::string stretch : {"prefill", "inject"}) {
    figures[stretch + ".kl_estimate.p99"] = 1.1 * figures.at(stretch + ".kl.p99");
  }
  return figures;
}

TEST(SixteenBitCrossGate, PassesTheNoiseOfAnotherInstructionSet) {
  for (const GateContext& context : every_context()) {
    const GateResult result =
        evaluate(GateSpec::builtin("16bit-cross").resolve(context), measured_noise());
    for (const RuleResult& rule : result.rules) EXPECT_TRUE(rule.passed) << describe(rule);
  }
}

// What is judged in the place of a figure where a router may explain some rows.
std::string judged_figure(std::string figure, const GateContext& context) {
  constexpr std::string_view kLayer = "layer_max.relative_l2";
  constexpr std::string_view kRow = "row_max.relative_l2";
  if (!context.is_routed()) return figure;
  if (const auto at = figure.find(kLayer); at != std::string::npos) {
    return figure.substr(0, at) + "layer_max.median_row_l2";
  }
  if (const auto at = figure.find(kRow); at != std::string::npos) figure.insert(at, "unrouted_");
  return figure;
}

// What a fault leaves in one figure (docs/gates.md), with the noise in all others.
TEST(SixteenBitCrossGate, FailsEveryFault) {
  for (const auto& [figure, value] : std::initializer_list<std::pair<const char*, double>>{
           {"inject.kv.value.layer_max.scale_error", 0.01 - 0.0023},  // V x 1.01, noise against it
           {"inject.kv.key.layer_max.relative_l2", 0.089},            // keys one position off
           {"inject.kv.key.layer_max.relative_l2", 1.27},             // swapped heads
           {"inject.kv.key.row_max.relative_l2", 0.52},               // stale row
           {"inject.kv.key.layer_max.scale_error", 7.1},              // int8 without a scale
           {"inject.kv.value.nonfinite", 1.0},                        // NaN
           {"forced.kv.value.layer_max.scale_error", 0.05}}) {
    for (const GateContext& context : every_context()) {
      Figures figures = measured_noise();
      figures[judged_figure(figure, context)] = value;
      const Gate gate = GateSpec::builtin("16bit-cross").resolve(context);
      EXPECT_FALSE(evaluate(gate, figures).passed) << figure;
    }
  }
}

// A hard flip, except where a router's choice makes them as often.
TEST(SixteenBitCrossGate, FailsHardFlips) {
  Figures figures = measured_noise();
  figures["forced.tokens.hard_flips"] = 1.0;
  figures["forced.tokens.hard_flips_p"] = 1e-3;
  std::vector<bool> passed;
  for (const GateContext& context : every_context()) {
    const Gate gate = GateSpec::builtin("16bit-cross").resolve(context);
    passed.push_back(evaluate(gate, figures).passed);
    figures["forced.tokens.hard_flips_p"] = 1e-7;
    EXPECT_FALSE(evaluate(gate, figures).passed);
    figures["forced.tokens.hard_flips_p"] = 1e-3;
  }
  EXPECT_EQ(passed, (std::vector<bool>{false, false, true}));
}

// rounding to bf16 alone leaves 0.0015 (docs/metrics.md), TF32's 10 bits 0.00018.
TEST(Fp32CrossGate, FailsProductsInFewerBits) {
  const Gate gate = GateSpec::builtin("fp32-cross").resolve(kContext);
  for (const double relative_l2 : {0.0015, 0.00018}) {
    Figures figures = perfect({"prefill", "inject"});
    figures["inject.kv.key.layer_max.relative_l2"] = relative_l2;
    EXPECT_FALSE(evaluate(gate, figures).passed) << relative_l2;
  }
}

std::vector<std::string> figures_naming(const Gate& gate, std::string_view prefix) {
  std::vector<std::string> names;
  for (const GateRule& rule : gate.rules) {
    if (rule.figure.starts_with(prefix)) names.push_back(rule.figure);
  }
  return names;
}

TEST(GateSpec, BuiltInGatesDemandTheModeOfADiff) {
  for (const std::string_view name : builtin_gate_names()) {
    GateContext context;
    EXPECT_FALSE(figures_naming(GateSpec::builtin(name).resolve(context), "inject.").empty());
    context.demanded_mode = format::ReplayMode::kFree;
    const Gate gate = GateSpec::builtin(name).resolve(context);
    EXPECT_TRUE(figures_naming(gate, "inject.").empty()) << name;
    EXPECT_FALSE(figures_naming(gate, "free.").empty()) << name;
    EXPECT_FALSE(figures_naming(gate, "prefill.").empty()) << name;
  }
}

TEST(GateSpec, AnotherDemandedModeHasTheBoundsOfThePattern) {
  GateContext context;
  context.demanded_mode = format::ReplayMode::kForced;
  const Gate gate = GateSpec::builtin("16bit-cross").resolve(context);
  const auto bound = [&](std::string_view figure) {
    for (const GateRule& rule : gate.rules) {
      if (rule.figure == figure) return rule.max;
    }
    return std::optional<double>();
  };
  ASSERT_TRUE(bound("forced.kl.p99").has_value());
  EXPECT_EQ(bound("forced.kl.p99"), bound("*.kl.p99"));
}

}  // namespace
}  // namespace kvtool::analysis
