// Which rules gates have where recordings show noise, where they do not, and for mixtures of
// experts.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "kvtool/analysis/gate.h"
#include "support/error_of.h"

namespace kvtool::analysis {
namespace {

using format::ReplayMode;
using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

GateContext by_ulp() {
  GateContext context;
  context.dtype = "bfloat16";
  context.device = "CPU";
  return context;
}

GateContext by_noise() {
  GateContext context = by_ulp();
  context.measures_noise = true;
  return context;
}

GateContext routed_by_noise() {
  GateContext context = by_noise();
  context.routed_layers = {false, true};
  return context;
}

GateSpec parse(const std::string& text) { return GateSpec::parse(json::parse(text), "gate.json"); }

struct RuleBounds {
  std::optional<double> min, max;
  friend bool operator==(const RuleBounds&, const RuleBounds&) = default;
};

std::map<std::string, RuleBounds> rules_of(const Gate& gate) {
  std::map<std::string, RuleBounds> rules;
  for (const GateRule& rule : gate.rules) {
    EXPECT_TRUE(rules.emplace(rule.figure, RuleBounds{rule.min, rule.max}).second) << rule.figure;
  }
  return rules;
}

RuleBounds at_most(double max) { return {std::nullopt, max}; }
RuleBounds at_least(double min) { return {min, std::nullopt}; }

// ---- What every gate holds -----------------------------------------------------------

using Rules = std::map<std::string, RuleBounds>;

TEST(InheritedRules, WithoutASampleAreABudgetOfTies) {
  const Rules expected{{"*.tokens.hard_flips", at_most(0.0)},
                       {"*.tokens.nonfinite", at_most(0.0)},
                       {"*.kv.*.nonfinite", at_most(0.0)},
                       {"*.tokens.tie_rate", at_most(0.02)}};
  EXPECT_EQ(rules_of(GateSpec().resolve(by_ulp())), expected);
  GateContext routed = by_ulp();
  routed.routed_layers = {true, true};
  EXPECT_EQ(rules_of(GateSpec().resolve(routed)), expected) << "nothing shows how much noise is";
}

TEST(InheritedRules, WithASampleAreExpectedFlips) {
  const Rules expected{{"*.tokens.hard_flips", at_most(0.0)},
                       {"*.tokens.nonfinite", at_most(0.0)},
                       {"*.kv.*.nonfinite", at_most(0.0)},
                       {"inject.tokens.flips_p", at_least(1e-6)}};
  EXPECT_EQ(rules_of(GateSpec().resolve(by_noise())), expected);
  GateContext dense = by_noise();
  dense.routed_layers = {false, false};
  EXPECT_EQ(rules_of(GateSpec().resolve(dense)), expected);
}

TEST(InheritedRules, OfAMixtureOfExpertsAllowHardFlipsWithinTheirTail) {
  const Rules expected{{"*.tokens.hard_flips_p", at_least(1e-6)},
                       {"*.tokens.nonfinite", at_most(0.0)},
                       {"*.kv.*.nonfinite", at_most(0.0)},
                       {"inject.tokens.flips_p", at_least(1e-6)}};
  EXPECT_EQ(rules_of(GateSpec().resolve(routed_by_noise())), expected);
}

TEST(InheritedRules, DefaultGateHasNoneOfFlipsThatNoiseExplains) {
  EXPECT_EQ(rules_of(default_gate(by_noise())), rules_of(default_gate(by_ulp())));
  EXPECT_EQ(rules_of(default_gate(by_noise())), (Rules{{"*.tokens.hard_flips", at_most(0.0)},
                                                       {"*.tokens.nonfinite", at_most(0.0)},
                                                       {"*.kv.*.nonfinite", at_most(0.0)}}));
  EXPECT_EQ(rules_of(default_gate(routed_by_noise())),
            (Rules{{"*.tokens.hard_flips_p", at_least(1e-6)},
                   {"*.tokens.nonfinite", at_most(0.0)},
                   {"*.kv.*.nonfinite", at_most(0.0)}}));
}

TEST(InheritedRules, FlipsOfInjectAreJudgedWhereItRan) {
  Gate gate = GateSpec().resolve(by_noise());
  EXPECT_THAT(modes_for(gate), ElementsAre(ReplayMode::kInject));
  std::erase_if(gate.rules,
                [](const auto& rule) { return rule.figure != "inject.tokens.flips_p"; });
  ASSERT_EQ(gate.rules.size(), 1U);
  // As in a diff of two generations, which has no inject.
  EXPECT_THAT(evaluate(gate, {{"free.tokens.compared", 9.0}}).rules, IsEmpty());
  EXPECT_TRUE(evaluate(gate, {{"free.tokens.compared", 9.0}}).passed);
  Figures figures{{"inject.tokens.compared", 9.0}};
  EXPECT_FALSE(evaluate(gate, figures).passed) << "ran, and nothing was measured";
  figures["inject.tokens.flips_p"] = 1e-6;
  EXPECT_TRUE(evaluate(gate, figures).passed);
  figures["inject.tokens.flips_p"] = 0.9e-6;
  EXPECT_FALSE(evaluate(gate, figures).passed);
  const Figures no_step{{"inject.tokens.compared", 0.0}, {"inject.tokens.uncompared", 0.0}};
  EXPECT_TRUE(evaluate(gate, no_step).passed);
  EXPECT_EQ(evaluate(gate, no_step).rules.at(0).unjudged, "no step to judge");
}

// Flips depend on each other where own rows or tokens are fed back.
TEST(InheritedRules, FlipsOfForcedAndFreeAreShownOnly) {
  const Figures figures{{"inject.tokens.compared", 9.0}, {"inject.tokens.flips_p", 0.5},
                        {"inject.tokens.hard_flips", 0}, {"forced.tokens.flips_p", 0.0},
                        {"free.tokens.flips_p", 0.0},    {"prefill.tokens.nonfinite", 0},
                        {"prefill.kv.key.nonfinite", 0}};
  EXPECT_TRUE(evaluate(GateSpec().resolve(by_noise()), figures).passed);
}

// ---- Built-in gates --------------------------------------------------------------------

bool names(const Gate& gate, const std::string& figure) { return rules_of(gate).contains(figure); }

struct CrossBounds {
  const char* gate;
  double prefill_relative_noise;
  double inject_relative_noise;
  double own_relative_noise;  // of what runs on own K/V
};

class CrossGate : public testing::TestWithParam<CrossBounds> {};

TEST_P(CrossGate, JudgesEstimateAndNoiseInThePlaceOfTheLowerBound) {
  const GateSpec spec = GateSpec::builtin(GetParam().gate);
  const Rules with = rules_of(spec.resolve(by_noise()));
  const Rules without = rules_of(spec.resolve(by_ulp()));
  for (const std::string stretch : {"prefill", "inject", "*"}) {
    EXPECT_FALSE(with.contains(stretch + ".kl.p99")) << stretch;
    EXPECT_EQ(with.at(stretch + ".kl_estimate.p99"), without.at(stretch + ".kl.p99")) << stretch;
    EXPECT_FALSE(without.contains(stretch + ".kl_estimate.p99")) << stretch;
    EXPECT_FALSE(without.contains(stretch + ".logits.relative_noise")) << stretch;
  }
  EXPECT_EQ(with.at("prefill.logits.relative_noise"), at_most(GetParam().prefill_relative_noise));
  EXPECT_EQ(with.at("inject.logits.relative_noise"), at_most(GetParam().inject_relative_noise));
  EXPECT_EQ(with.at("*.logits.relative_noise"), at_most(GetParam().own_relative_noise));
}

TEST_P(CrossGate, JudgesKvAlike) {
  const GateSpec spec = GateSpec::builtin(GetParam().gate);
  const auto kv_rules = [&](const GateContext& context) {
    Rules rules = rules_of(spec.resolve(context));
    std::erase_if(rules,
                  [](const auto& rule) { return rule.first.find(".kv.") == rule.first.npos; });
    return rules;
  };
  EXPECT_EQ(kv_rules(by_noise()), kv_rules(by_ulp()));
  EXPECT_GT(kv_rules(by_noise()).size(), 20U);
}

// A fault that makes the logits noisier does not excuse itself.
TEST_P(CrossGate, FailsTooMuchNoise) {
  const Gate gate = GateSpec::builtin(GetParam().gate).resolve(by_noise());
  for (const auto& [name, bound] :
       {std::pair("inject.logits.relative_noise", GetParam().inject_relative_noise),
        std::pair("prefill.logits.relative_noise", GetParam().prefill_relative_noise),
        std::pair("forced.logits.relative_noise", GetParam().own_relative_noise)}) {
    const std::string figure = name;
    const auto judged = [&](double noise) {
      for (const RuleResult& rule : evaluate(gate, {{figure, noise}}).rules) {
        if (rule.figure == figure) return rule.passed;
      }
      ADD_FAILURE() << "no rule of " << figure;
      return false;
    };
    EXPECT_TRUE(judged(bound)) << figure;
    EXPECT_FALSE(judged(1.01 * bound)) << figure;
  }
}

INSTANTIATE_TEST_SUITE_P(RuleBounds, CrossGate,
                         testing::Values(CrossBounds{"fp32-cross", 1e-4, 1e-4, 2e-4},
                                         CrossBounds{"16bit-cross", 0.1, 0.1, 0.2},
                                         CrossBounds{"fp8", 0.5, 0.2, 0.5}),
                         [](const auto& row) {
                           std::string name = row.param.gate;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(SameDeviceGate, IsTheSameWithASample) {
  const GateSpec spec = GateSpec::builtin("same-device");
  Rules with = rules_of(spec.resolve(by_noise()));
  Rules without = rules_of(spec.resolve(by_ulp()));
  EXPECT_EQ(with.erase("inject.tokens.flips_p"), 1U);
  EXPECT_EQ(without.erase("*.tokens.tie_rate"), 1U);
  EXPECT_EQ(with, without);
}

// Other weights may prefer another token clearly, whatever the recordings hold.
TEST(Fp8Gate, JudgesHowManyFlipsThereAreByNoiseOrElseByMatchRate) {
  for (GateContext context : {by_ulp(), by_noise(), routed_by_noise()}) {
    for (const ReplayMode mode : {ReplayMode::kInject, ReplayMode::kForced, ReplayMode::kFree}) {
      context.demanded_mode = mode;
      const Gate gate = GateSpec::builtin("fp8").resolve(context);
      for (const char* figure :
           {"*.tokens.hard_flips", "*.tokens.hard_flips_p", "*.tokens.tie_rate"}) {
        EXPECT_FALSE(names(gate, figure)) << figure;
      }
      EXPECT_TRUE(names(gate, "*.tokens.nonfinite"));
      EXPECT_EQ(names(gate, "inject.tokens.flips_p"), context.measures_noise);
      EXPECT_EQ(names(gate, "inject.tokens.match_rate"),
                mode == ReplayMode::kInject && !context.measures_noise);
    }
  }
}

// ---- Gate files ------------------------------------------------------------------------

TEST(NoiseZ, IsFourUnlessAFileOrItsOverridesSayOtherwise) {
  EXPECT_EQ(GateSpec().resolve(by_noise()).flip_bounds.noise_z, 4.0);
  EXPECT_EQ(GateSpec::builtin("16bit-cross").resolve(by_noise()).flip_bounds.noise_z, 4.0);
  const GateSpec spec = parse(R"({"noise_z": 3.5, "near_tie_ulps": 3, "overrides": [
      {"device": "CPU", "noise_z": 6}, {"device": "NVIDIA_*", "noise_z": 0.5},
      {"dtype": "float16", "near_tie_ulps": 4}]})");
  EXPECT_EQ(spec.resolve(by_noise()).flip_bounds.noise_z, 6.0);
  EXPECT_EQ(spec.resolve(by_noise()).flip_bounds.near_tie_ulps, 3.0);
  GateContext other = by_noise();
  other.device = "NVIDIA_L4";
  EXPECT_EQ(spec.resolve(other).flip_bounds.noise_z, 0.5);
  other.dtype = "float16";
  other.device = "TPU";
  EXPECT_EQ(spec.resolve(other).flip_bounds.noise_z, 3.5);
  EXPECT_EQ(spec.resolve(other).flip_bounds.near_tie_ulps, 4.0);
}

std::string message_of(const std::string& text) {
  const Error error = error_of([&] { (void)parse(text); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  return error.what();
}

TEST(NoiseZ, IsANumberAboveZero) {
  for (const auto& [value, found] :
       {std::pair("0", "0"), std::pair("-1", "-1"), std::pair("\"4\"", "\"4\""),
        std::pair("[4]", "array"), std::pair("true", "boolean")}) {
    const std::string expected = std::string("expected a number above 0, found ") + found;
    EXPECT_THAT(message_of(R"({"noise_z": )" + std::string(value) + "}"),
                HasSubstr("gate.json: noise_z: " + expected));
    EXPECT_THAT(message_of(R"({"overrides": [{"noise_z": )" + std::string(value) + "}]}"),
                HasSubstr("gate.json: overrides[0].noise_z: " + expected));
  }
  const json infinite = {{"noise_z", 1e308 * 10}};
  EXPECT_EQ(error_of([&] { (void)GateSpec::parse(infinite, "x"); }).code(), ErrorCode::kUsage);
  EXPECT_EQ(parse(R"({"noise_z": null})").resolve(by_noise()).flip_bounds.noise_z, 4.0);
}

TEST(NoiseZ, IsAmongTheKnownKeys) {
  EXPECT_THAT(message_of(R"({"noise": 3})"),
              HasSubstr("unknown key 'noise'; did you mean 'noise_z'?; known here: base, "
                        "description, evidence, name, near_tie_ulps, noise_z, overrides, rules"));
  EXPECT_THAT(message_of(R"({"overrides": [{"tolerance": 3}]})"),
              HasSubstr("model, near_tie_ulps, noise_z, reference_cache"));
  EXPECT_THAT(message_of(R"({"overrides": [{"device": "CPU"}]})"),
              HasSubstr("expected \"rules\", \"noise_z\" or \"near_tie_ulps\""));
  EXPECT_THAT(parse(R"({"overrides": [{"noise_z": 5}]})").resolve(by_noise()).flip_bounds.noise_z,
              5.0);
}

// Which rules a gate inherits depends on the recordings; a file is for all of them.
TEST(DroppedRules, MayBeThoseOfAnyContext) {
  for (const char* figure : {"*.tokens.tie_rate", "*.tokens.hard_flips", "*.tokens.hard_flips_p",
                             "inject.tokens.flips_p"}) {
    const GateSpec spec = parse(std::string(R"({"rules": {")") + figure + R"(": null}})");
    for (const GateContext& context : {by_ulp(), by_noise(), routed_by_noise()}) {
      EXPECT_FALSE(names(spec.resolve(context), figure)) << figure;
      EXPECT_TRUE(names(spec.resolve(context), "*.tokens.nonfinite"));
    }
  }
  for (const char* figure : {"inject.kl.p99", "inject.kl_estimate.p99"}) {
    const std::string rules = std::string(R"("rules": {")") + figure + R"(": null}})";
    EXPECT_NO_THROW((void)parse(R"({"base": "16bit-cross", )" + rules));
    EXPECT_THAT(message_of("{" + rules), HasSubstr("null drops an inherited rule"));
  }
}

TEST(DroppedRules, MessageNamesThoseOfEveryContextOnce) {
  EXPECT_THAT(message_of(R"({"rules": {"forced.tokens.flips_p": null}})"),
              HasSubstr("did you mean 'inject.tokens.flips_p'?"));
  const std::string message = message_of(R"({"rules": {"free.kl.max": null}})");
  EXPECT_THAT(message, HasSubstr("Inherited are *.tokens.hard_flips, *.tokens.nonfinite, "
                                 "*.kv.*.nonfinite, *.tokens.tie_rate, inject.tokens.flips_p, "
                                 "*.tokens.hard_flips_p"));
}

TEST(GateFile, RuleOfFlipsReplacesTheInheritedOne) {
  const Gate gate =
      parse(R"({"rules": {"inject.tokens.flips_p": {"min": 0.001}}})").resolve(by_noise());
  EXPECT_EQ(rules_of(gate).at("inject.tokens.flips_p"), at_least(1e-3));
  EXPECT_FALSE(evaluate(gate, {{"inject.tokens.flips_p", 1e-4}}).passed);
  // It is the file's own: what it names has to be there.
  EXPECT_FALSE(evaluate(gate, {{"free.tokens.compared", 9.0}}).passed);
}

TEST(GateContext, IsRoutedWithAnyRoutedLayer) {
  GateContext context;
  EXPECT_FALSE(context.is_routed());
  context.routed_layers = {false, false};
  EXPECT_FALSE(context.is_routed());
  context.routed_layers = {false, true};
  EXPECT_TRUE(context.is_routed());
}

}  // namespace
}  // namespace kvtool::analysis
