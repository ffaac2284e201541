#include "kvtool/analysis/gate.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <limits>
#include <set>

#include "glob.h"

namespace kvtool::analysis {
namespace {

constexpr std::string_view kTieRate = ".tokens.tie_rate";
constexpr std::string_view kComparedTokens = ".tokens.compared";
constexpr std::string_view kUncomparedTokens = ".tokens.uncompared";
constexpr std::string_view kRecordedRows = ".kv.recorded_rows";
constexpr std::array<std::string_view, 4> kStretches = {"prefill", "inject", "forced", "free"};

// Of figures that a rule names without a pattern.
using RuleNames = std::set<std::string, std::less<>>;

bool is_pattern(std::string_view figure) {
  return figure.find_first_of("*?") != std::string_view::npos;
}

std::string_view stretch_of(std::string_view figure) { return figure.substr(0, figure.find('.')); }

// 2 % of 20 tokens is no whole token: a budget of ties is rounded up to the next
// one, so that a budget above 0 always has room for one. 0 stays 0.
double widened_tie_budget(double budget, const std::string& figure, const Figures& figures) {
  const std::string stretch = figure.substr(0, figure.size() - kTieRate.size());
  const auto compared = figures.find(stretch + std::string(kComparedTokens));
  if (compared == figures.end() || !(compared->second >= 1.0)) return budget;
  // 0.07 * 100 is a little more than 7 in binary.
  constexpr double kSlack = 1e-9;
  const double whole = std::ceil(budget * compared->second - kSlack) / compared->second;
  return std::max(budget, whole);
}

GateRule rule_for(const GateRule& rule, const std::string& figure, const Figures& figures) {
  GateRule effective = rule;
  if (rule.max && figure.ends_with(kTieRate)) {
    effective.max = widened_tie_budget(*rule.max, figure, figures);
  }
  return effective;
}

struct Judged {
  std::string figure;
  double measured = 0.0;
  GateRule rule;
  double excess = 0.0;  // above 0: the bound is broken
};

double excess_of(const GateRule& rule, double measured) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  if (std::isnan(measured)) return kInfinity;
  double excess = -kInfinity;
  if (rule.max) excess = std::max(excess, measured - *rule.max);
  if (rule.min) excess = std::max(excess, *rule.min - measured);
  return excess;
}

// Worst first; figures of equal excess in the order of their names.
std::vector<Judged> judge_figures(const GateRule& rule, const Figures& figures,
                                  const RuleNames& own_rules, bool& any_match) {
  std::vector<Judged> judged;
  for (const auto& [figure, measured] : figures) {
    if (!matches_pattern(rule.figure, figure)) continue;
    any_match = true;
    if (figure != rule.figure && own_rules.contains(figure)) continue;
    const GateRule effective = rule_for(rule, figure, figures);
    judged.push_back({figure, measured, effective, excess_of(effective, measured)});
  }
  std::stable_sort(judged.begin(), judged.end(),
                   [](const Judged& a, const Judged& b) { return a.excess > b.excess; });
  return judged;
}

bool is_zero(const Figures& figures, std::string_view stretch, std::string_view name) {
  const auto found = figures.find(std::string(stretch) + std::string(name));
  return found != figures.end() && found->second == 0.0;
}

// Why the stretch has nothing that a figure of this name could measure; empty when it has, or
// did not run.
std::string nothing_to_measure(std::string_view stretch, std::string_view figure,
                               const Figures& figures) {
  if (is_zero(figures, stretch, kComparedTokens) && is_zero(figures, stretch, kUncomparedTokens)) {
    return "no step to judge";
  }
  const bool is_kv = figure.substr(std::min(figure.find('.'), figure.size())).starts_with(".kv.");
  if (is_kv && is_zero(figures, stretch, kRecordedRows)) {
    return std::string("the recordings hold no K/V of ") +
           (stretch == kStretches.front() ? "prompts" : "steps");
  }
  return {};
}

bool ran(std::string_view stretch, const Figures& figures) {
  return figures.contains(std::string(stretch) + std::string(kComparedTokens));
}

// Of a rule that no figure matches.
RuleResult missing(const GateRule& rule, const Figures& figures) {
  RuleResult result;
  result.rule = rule;
  result.figure = rule.figure;
  for (const std::string_view stretch : kStretches) {
    if (!ran(stretch, figures) || !matches_pattern(stretch_of(rule.figure), stretch)) continue;
    result.unjudged = nothing_to_measure(stretch, rule.figure, figures);
    if (result.unjudged.empty()) break;
  }
  result.passed = !result.unjudged.empty();
  return result;
}

std::optional<RuleResult> judge(const GateRule& rule, const Figures& figures,
                                const RuleNames& own_rules) {
  if (rule.only_if_ran && !ran(stretch_of(rule.figure), figures)) return std::nullopt;
  bool any_match = false;
  const std::vector<Judged> judged = judge_figures(rule, figures, own_rules, any_match);
  if (!any_match) return missing(rule, figures);
  if (judged.empty()) return std::nullopt;
  const Judged& worst = judged.front();
  RuleResult result;
  result.rule = worst.rule;
  result.figure = worst.figure;
  result.measured = worst.measured;
  result.matched = judged.size();
  for (const Judged& each : judged) {
    if (each.excess > 0.0) result.failures.push_back(each.figure);
  }
  result.failed = result.failures.size();
  result.passed = result.failed == 0;
  return result;
}

std::string formatted(double value, int digits) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "infinite" : "-infinite";
  std::array<char, 40> text{};
  std::snprintf(text.data(), text.size(), "%.*g", digits, value);
  return text.data();
}

// With as many digits as it takes to tell it from the bounds that it is not equal to.
int digits_that_tell_apart(double measured, const GateRule& rule) {
  constexpr int kUsual = 4;
  constexpr int kExact = 17;
  const auto alike = [&](const std::optional<double>& bound, int digits) {
    return bound && *bound != measured && formatted(measured, digits) == formatted(*bound, digits);
  };
  int digits = kUsual;
  while (digits < kExact && (alike(rule.min, digits) || alike(rule.max, digits))) ++digits;
  return digits;
}

std::string allowed(const GateRule& rule, int digits) {
  if (rule.min && rule.max) {
    if (*rule.min == *rule.max) return "exactly " + formatted(*rule.max, digits);
    return formatted(*rule.min, digits) + " to " + formatted(*rule.max, digits);
  }
  if (rule.max) return "at most " + formatted(*rule.max, digits);
  return "at least " + formatted(rule.min.value_or(0.0), digits);
}

// Which rule it was, where the figure's name does not say so.
std::string pattern_note(const RuleResult& result) {
  if (result.figure == result.rule.figure) return {};
  std::string note = " (" + result.rule.figure;
  if (result.failed > 0 && result.matched > 1) {
    note += ": " + std::to_string(result.failed) + " of " + std::to_string(result.matched) +
            " figures fail";
  }
  return note + ")";
}

}  // namespace

std::vector<format::ReplayMode> modes_for(const Gate& gate) {
  using format::ReplayMode;
  std::vector<ReplayMode> modes = {ReplayMode::kInject};
  for (const ReplayMode mode : {ReplayMode::kForced, ReplayMode::kFree}) {
    const std::string prefix = std::string(replay_mode_name(mode)) + ".";
    const bool named = std::any_of(gate.rules.begin(), gate.rules.end(), [&](const GateRule& rule) {
      return rule.figure.starts_with(prefix);
    });
    if (named) modes.push_back(mode);
  }
  return modes;
}

GateResult evaluate(const Gate& gate, const Figures& figures) {
  RuleNames own_rules;
  for (const GateRule& rule : gate.rules) {
    if (!is_pattern(rule.figure)) own_rules.insert(rule.figure);
  }
  GateResult result;
  result.gate = gate.name;
  for (const GateRule& rule : gate.rules) {
    if (auto judged = judge(rule, figures, own_rules)) result.rules.push_back(std::move(*judged));
  }
  result.passed = std::all_of(result.rules.begin(), result.rules.end(),
                              [](const RuleResult& rule) { return rule.passed; });
  return result;
}

bool GateResult::stretch_passed(std::string_view stretch) const {
  const auto failed_there = [&](const RuleResult& result) {
    if (result.passed) return false;
    if (!result.measured) return matches_pattern(stretch_of(result.rule.figure), stretch);
    return std::any_of(result.failures.begin(), result.failures.end(),
                       [&](const std::string& figure) { return stretch_of(figure) == stretch; });
  };
  return std::none_of(rules.begin(), rules.end(), failed_there);
}

std::string describe(const RuleResult& result) {
  if (!result.unjudged.empty()) {
    return result.rule.figure + ": not judged, " + result.unjudged;
  }
  if (!result.measured) {
    return result.rule.figure + ": not measured, allowed " + allowed(result.rule, 4);
  }
  const int digits = digits_that_tell_apart(*result.measured, result.rule);
  return result.figure + ": measured " + formatted(*result.measured, digits) + ", allowed " +
         allowed(result.rule, digits) + pattern_note(result);
}

}  // namespace kvtool::analysis
