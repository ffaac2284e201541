#include "json/json_values.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "kvtool/base/text.h"
#include "mismatches.h"

namespace kvtool::report {
namespace {

bool is_plain(const Json& value) { return !value.is_structured() || value.empty(); }

class DocumentWriter {
 public:
  std::string write(const Json& document) {
    value(document, 0);
    return std::move(out_) + "\n";
  }

 private:
  void value(const Json& value, std::size_t depth) {
    if (is_plain(value)) {
      plain(value);
    } else if (value.is_array() && std::all_of(value.begin(), value.end(), is_plain)) {
      line(value);
    } else {
      lines(value, depth);
    }
  }

  void plain(const Json& value) {
    out_ += value.dump(-1, ' ', false, Json::error_handler_t::replace);
  }

  void line(const Json& array) {
    const char* separator = "[";
    for (const Json& element : array) {
      out_ += separator;
      plain(element);
      separator = ", ";
    }
    out_ += ']';
  }

  void lines(const Json& container, std::size_t depth) {
    const bool object = container.is_object();
    out_ += object ? '{' : '[';
    const char* separator = "\n";
    for (const auto& [key, element] : container.items()) {
      out_ += separator;
      out_.append(2 * (depth + 1), ' ');
      if (object) {
        plain(Json(key));
        out_ += ": ";
      }
      value(element, depth + 1);
      separator = ",\n";
    }
    out_ += '\n';
    out_.append(2 * depth, ' ');
    out_ += object ? '}' : ']';
  }

  std::string out_;
};

}  // namespace

Json json_number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

Json json_number(const std::optional<double>& value) {
  return value ? json_number(*value) : Json(nullptr);
}

Json json_rounded(double value) {
  if (!std::isfinite(value)) return nullptr;
  return std::strtod(fmt::format("{:.6g}", value).c_str(), nullptr);
}

Json json_text(const std::string& bytes) { return valid_utf8(bytes); }

Json json_known(const std::string& value) {
  return value.empty() ? Json(nullptr) : json_text(value);
}

Json json_token(std::int32_t token) { return token < 0 ? Json(nullptr) : Json(token); }

Json json_token_list(const std::vector<std::int32_t>& tokens) {
  Json list = Json::array();
  for (const std::int32_t token : tokens) list.push_back(json_token(token));
  return list;
}

Json json_place(const analysis::InputName& input) {
  return {
      {"name", to_string(input)}, {"batch_size", input.batch_size}, {"input", input.input_index}};
}

namespace {

Json json_texts(const std::vector<std::string>& texts) {
  Json list = Json::array();
  for (const std::string& text : texts) list.push_back(json_text(text));
  return list;
}

Json json_numeric_list(const analysis::NumericList& list) {
  Json entries = Json::object();
  for (const auto& [key, value] : list.entries) entries[valid_utf8(key)] = json_text(value);
  return {{"digest", json_known(list.digest)},
          {"entries", std::move(entries)},
          {"missing", json_texts(list.missing)}};
}

Json json_agreement_of(const analysis::NumericAgreement& agreement) {
  return {{"same", json_known(agreement.same())},
          {"recorded", json_known(agreement.recorded)},
          {"live", json_known(agreement.live)},
          {"differing", json_texts(agreement.differing)},
          {"missing", json_texts(agreement.missing)}};
}

}  // namespace

Json json_numerics(const analysis::Numerics& numerics) {
  return {{"policy", json_numeric_list(numerics.policy)},
          {"platform", json_numeric_list(numerics.platform)}};
}

Json json_agreement(const std::optional<analysis::NumericsAgreement>& numerics) {
  if (!numerics) return nullptr;
  return {{"policy", json_agreement_of(numerics->policy)},
          {"platform", json_agreement_of(numerics->platform)}};
}

Json json_provenance(const std::vector<analysis::ProvenanceDifference>& differences) {
  Json list = Json::array();
  for (const analysis::ProvenanceDifference& difference : differences) {
    list.push_back({{"key", json_text(difference.key)},
                    {"label", json_text(difference.label)},
                    {"recorded", json_text(difference.recorded)},
                    {"live", json_text(difference.live)},
                    {"why", json_text(difference.why)},
                    {"inputs", difference.inputs},
                    {"part", analysis::part_name(difference.part)}});
  }
  return list;
}

Json json_rules(const std::vector<analysis::RuleResult>& rules) {
  Json list = Json::array();
  for (const analysis::RuleResult& rule : rules) {
    list.push_back({{"rule", json_text(rule.rule.figure)},
                    {"min", json_number(rule.rule.min)},
                    {"max", json_number(rule.rule.max)},
                    {"figure", json_text(rule.figure)},
                    {"measured", json_number(rule.measured)},
                    {"missing", !rule.measured.has_value() && rule.unjudged.empty()},
                    {"unjudged", json_text(rule.unjudged)},
                    {"matched", rule.matched},
                    {"failed", rule.failed},
                    {"failures", rule.failures},
                    {"passed", rule.passed}});
  }
  return list;
}

Json json_figures(const analysis::Figures& figures) {
  Json object = Json::object();
  for (const auto& [name, value] : figures) object[name] = json_number(value);
  return object;
}

namespace {

Json json_rule(FlipRule rule) {
  switch (rule) {
    case FlipRule::kUlp: return "ulp";
    case FlipRule::kNoise: return "noise";
    case FlipRule::kNone: return nullptr;
  }
  return nullptr;
}

Json json_estimate(const analysis::KlEstimate& estimate) {
  if (std::isnan(estimate.value)) return nullptr;
  return {{"value", json_number(estimate.value)},
          {"standard_error", json_number(estimate.standard_error)},
          {"reliable", estimate.reliable}};
}

}  // namespace

Json json_comparison(const analysis::TokenComparison& token, const analysis::FlipBounds& bounds) {
  return {{"index", token.index},
          {"recorded", json_token(token.recorded)},
          {"predicted", json_token(token.predicted)},
          {"class", analysis::verdict_name(token.verdict)},
          {"margin", json_number(token.margin)},
          {"gap", json_number(token.gap)},
          {"gap_is_bound", token.gap_is_bound},
          {"live_gap", json_number(token.live_gap)},
          {"ulp", json_number(token.ulp)},
          {"noise", json_number(token.noise.top)},
          {"noise_bound", json_number(token.noise_bound)},
          {"gap_in_noise", json_number(token.gap_in_noise(bounds.noise_z))},
          {"rule", json_rule(flip_rule(token))},
          {"kl", json_number(token.kl)},
          {"kl_estimate", json_estimate(token.kl_estimate)},
          {"nonfinite", token.nonfinite}};
}

std::string json_document(const Json& document) { return DocumentWriter().write(document); }

}  // namespace kvtool::report
