// Gate files: checked when they are read, resolved for one model and device pair.
#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "gate_profiles.h"
#include "glob.h"
#include "kvtool/analysis/gate.h"
#include "kvtool/base/error.h"
#include "kvtool/base/nearest.h"

namespace kvtool::analysis {
namespace {

using nlohmann::json;

// One JSON value together with where it stands, for messages.
struct Value {
  const json& node;
  const std::string& subject;
  std::string key;  // "overrides[0].near_tie_ulps"; empty for the document

  [[nodiscard]] std::string where() const { return key.empty() ? subject : subject + ": " + key; }
  [[noreturn]] void fail(const std::string& expected) const {
    throw_usage(where() + ": expected " + expected + ", found " + found());
  }
  [[nodiscard]] std::string found() const {
    if (node.is_string() || node.is_number()) {
      return node.dump(-1, ' ', false, json::error_handler_t::replace);
    }
    return node.type_name();
  }
};

std::string as_name(const Value& value) {
  if (!value.node.is_string() || value.node.get_ref<const std::string&>().empty()) {
    value.fail("a non-empty string");
  }
  return value.node.get<std::string>();
}

double as_bound(const Value& value) {
  if (!value.node.is_number() || !std::isfinite(value.node.get<double>())) {
    value.fail("a finite number");
  }
  return value.node.get<double>();
}

double as_noise_z(const Value& value) {
  if (!value.node.is_number() || !std::isfinite(value.node.get<double>()) ||
      value.node.get<double>() <= 0.0) {
    value.fail("a number above 0");
  }
  return value.node.get<double>();
}

double as_near_tie_ulps(const Value& value) {
  // A difference of 1 ulp is a tie already.
  if (!value.node.is_number() || !std::isfinite(value.node.get<double>()) ||
      value.node.get<double>() < 1.0) {
    value.fail("a number of at least 1");
  }
  return value.node.get<double>();
}

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

using Setters = std::map<std::string, std::function<void(const Value&)>>;

// null leaves a key at its default.
void apply(const Value& object, const Setters& setters) {
  if (!object.node.is_object()) object.fail("an object { ... }");
  std::vector<std::string> known;
  for (const auto& [name, unused] : setters) known.push_back(name);
  for (const auto& [name, node] : object.node.items()) {
    const Value value{node, object.subject, object.key.empty() ? name : object.key + "." + name};
    const auto setter = setters.find(name);
    if (setter == setters.end()) {
      throw_usage(object.subject + ": unknown key '" + value.key + "'" + suggestion(name, known) +
                  "; known here: " + joined(known));
    }
    if (!node.is_null()) setter->second(value);
  }
}

// What a misspelt figure may have meant: names, and patterns over all stretches.
std::vector<std::string> figure_candidates() {
  std::vector<std::string> candidates = known_figures();
  for (const std::string& figure : known_figures()) {
    candidates.push_back("*" + figure.substr(figure.find('.')));
  }
  return candidates;
}

void check_figure(const std::string& pattern, const Value& rule) {
  const std::vector<std::string>& known = known_figures();
  const bool possible = std::any_of(known.begin(), known.end(), [&](const std::string& figure) {
    return matches_pattern(pattern, figure);
  });
  if (possible) return;
  throw_usage(rule.where() + ": no run has " +
              (pattern.find('*') == std::string::npos ? "a figure of this name"
                                                      : "a figure that this pattern matches") +
              suggestion(pattern, figure_candidates()) + " (docs/metrics.md lists all figures)");
}

GateRule parse_rule(const std::string& figure, const Value& value) {
  check_figure(figure, value);
  GateRule rule{.figure = figure, .min = std::nullopt, .max = std::nullopt};
  if (value.node.is_null()) return rule;
  apply(value, {{"min", [&](const Value& v) { rule.min = as_bound(v); }},
                {"max", [&](const Value& v) { rule.max = as_bound(v); }}});
  if (!rule.min && !rule.max) {
    throw_usage(value.where() + ": expected \"min\", \"max\" or both (null drops a rule)");
  }
  if (rule.min && rule.max && *rule.min > *rule.max) {
    throw_usage(value.where() + ": min " + json(*rule.min).dump() + " is above max " +
                json(*rule.max).dump() + ", so that nothing could pass");
  }
  return rule;
}

std::vector<GateRule> parse_rules(const Value& object) {
  if (!object.node.is_object()) object.fail("an object of figures, { \"inject.kl.p99\": ... }");
  std::vector<GateRule> rules;
  for (const auto& [figure, node] : object.node.items()) {
    rules.push_back(
        parse_rule(figure, {node, object.subject, object.key + "[\"" + figure + "\"]"}));
  }
  return rules;
}

std::string as_builtin(const Value& value) {
  std::string name = as_name(value);
  if (find_gate_profile(name) != nullptr) return name;
  const auto names = builtin_gate_names();
  const std::vector<std::string> known(names.begin(), names.end());
  throw_usage(value.where() + ": there is no built-in gate '" + name + "'" +
              suggestion(name, known) + "; there are " + joined(known));
}

// One for each set of rules that a gate may inherit.
std::vector<GateContext> every_kind_of_context() {
  std::vector<GateContext> contexts(3);
  contexts[1].measures_noise = contexts[2].measures_noise = true;
  contexts[2].routed_layers = {true};
  return contexts;
}

// A rule that drops what is not there is a misspelling.
void check_drops(const std::vector<GateRule>& rules, const std::vector<GateRule>& inherited,
                 const std::string& place) {
  for (const GateRule& rule : rules) {
    if (!drops(rule)) continue;
    std::vector<std::string> names;
    for (const GateRule& each : inherited) names.push_back(each.figure);
    if (std::find(names.begin(), names.end(), rule.figure) != names.end()) continue;
    throw_usage(place + "[\"" + rule.figure +
                "\"]: null drops an inherited rule, and none has this name" +
                suggestion(rule.figure, names) +
                "; to except one figure from a pattern, give it bounds of its own. Inherited are " +
                joined(names));
  }
}

bool chosen(const std::string& pattern, const std::string& value) {
  return pattern.empty() || matches_pattern_ignoring_case(pattern, value);
}

}  // namespace

GateSpec GateSpec::builtin(std::string_view name) {
  const json document = std::string(name);
  const std::string subject = "--gate";
  GateSpec spec;
  spec.base_ = as_builtin({document, subject, ""});
  spec.name_ = spec.base_;
  spec.description_ = find_gate_profile(spec.base_)->description;
  return spec;
}

GateSpec GateSpec::parse(const json& document, const std::string& subject) {
  GateSpec spec;
  const auto parse_override = [](const Value& value) {
    Override result;
    apply(value,
          {{"model", [&](const Value& v) { result.model = as_name(v); }},
           {"dtype", [&](const Value& v) { result.dtype = as_name(v); }},
           {"reference_device", [&](const Value& v) { result.reference_device = as_name(v); }},
           {"device", [&](const Value& v) { result.device = as_name(v); }},
           {"reference_cache", [&](const Value& v) { result.reference_cache = as_name(v); }},
           {"cache", [&](const Value& v) { result.cache = as_name(v); }},
           {"near_tie_ulps", [&](const Value& v) { result.near_tie_ulps = as_near_tie_ulps(v); }},
           {"noise_z", [&](const Value& v) { result.noise_z = as_noise_z(v); }},
           {"rules", [&](const Value& v) { result.rules = parse_rules(v); }}});
    if (result.rules.empty() && !result.near_tie_ulps && !result.noise_z) {
      throw_usage(value.where() +
                  ": changes nothing; expected \"rules\", \"noise_z\" or \"near_tie_ulps\"");
    }
    return result;
  };
  const auto parse_overrides = [&](const Value& value) {
    if (!value.node.is_array()) value.fail("an array of objects");
    for (std::size_t i = 0; i < value.node.size(); ++i) {
      spec.overrides_.push_back(parse_override(
          {value.node[i], value.subject, value.key + "[" + std::to_string(i) + "]"}));
    }
  };
  const Value whole{document, subject, ""};
  apply(whole,
        {{"name", [&](const Value& v) { spec.name_ = as_name(v); }},
         {"description", [&](const Value& v) { spec.description_ = as_name(v); }},
         {"base", [&](const Value& v) { spec.base_ = as_builtin(v); }},
         {"near_tie_ulps", [&](const Value& v) { spec.near_tie_ulps_ = as_near_tie_ulps(v); }},
         {"noise_z", [&](const Value& v) { spec.noise_z_ = as_noise_z(v); }},
         {"rules", [&](const Value& v) { spec.rules_ = parse_rules(v); }},
         {"overrides", parse_overrides},
         {"evidence", [](const Value&) {}}});
  if (spec.name_.empty()) spec.name_ = subject;
  spec.check_dropped_rules(subject);
  return spec;
}

void GateSpec::check_dropped_rules(const std::string& subject) const {
  // Which apply is known only with the recordings: of all that can.
  std::vector<GateRule> inherited;
  for (const GateContext& context : every_kind_of_context()) {
    put_rules(inherited_rules(context), inherited);
    if (const GateProfile* base = find_gate_profile(base_)) {
      put_rules(base->rules_for(context), inherited);
    }
  }
  check_drops(rules_, inherited, subject + ": rules");
  put_rules(rules_, inherited);
  for (std::size_t i = 0; i < overrides_.size(); ++i) {
    check_drops(overrides_[i].rules, inherited,
                subject + ": overrides[" + std::to_string(i) + "].rules");
    // Whether it applies is known only later: what it drops counts as present.
    std::vector<GateRule> added = overrides_[i].rules;
    std::erase_if(added, drops);
    put_rules(added, inherited);
  }
}

Gate GateSpec::resolve(const GateContext& context) const {
  Gate gate{.name = name_,
            .description = description_,
            .flip_bounds = {},
            .rules = inherited_rules(context)};
  gate.flip_bounds.near_tie_ulps = near_tie_ulps_.value_or(gate.flip_bounds.near_tie_ulps);
  gate.flip_bounds.noise_z = noise_z_.value_or(gate.flip_bounds.noise_z);
  if (const GateProfile* base = find_gate_profile(base_)) {
    put_rules(demanding(context.demanded_mode, base->rules_for(context)), gate.rules);
  }
  put_rules(rules_, gate.rules);
  for (const Override& each : overrides_) {
    const bool model = chosen(each.model, context.model) || chosen(each.model, context.model_slug);
    if (!model || !chosen(each.dtype, context.dtype) ||
        !chosen(each.reference_device, context.reference_device) ||
        !chosen(each.device, context.device) ||
        !chosen(each.reference_cache, context.reference_cache) ||
        !chosen(each.cache, context.cache)) {
      continue;
    }
    gate.flip_bounds.near_tie_ulps = each.near_tie_ulps.value_or(gate.flip_bounds.near_tie_ulps);
    gate.flip_bounds.noise_z = each.noise_z.value_or(gate.flip_bounds.noise_z);
    put_rules(each.rules, gate.rules);
  }
  return gate;
}

}  // namespace kvtool::analysis
