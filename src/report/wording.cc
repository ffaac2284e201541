#include "wording.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "kvtool/base/text.h"
#include "kvtool/format/meta.h"

namespace kvtool::report {
namespace {

constexpr const char* kContiguous = format::kUnnamedCache;

bool keeps_bounds(double value, const analysis::GateRule& rule) {
  return (!rule.min || value >= *rule.min) && (!rule.max || value <= *rule.max);
}

std::string figure_words(std::string_view figure) {
  if (figure == "relative_l2") return "relative L2";
  if (figure == "scale_error") return "scale error";
  return std::string(figure);
}

std::string agreement_text(const analysis::NumericAgreement& agreement) {
  if (agreement.equal) return "the same";
  std::string text;
  if (!agreement.differing.empty()) {
    text = fmt::format("differs in {}", fmt::join(agreement.differing, ", "));
  }
  if (!agreement.missing.empty()) {
    text += fmt::format("{}not recorded: {}", text.empty() ? "cannot be told, " : "; ",
                        fmt::join(agreement.missing, ", "));
  }
  return text.empty() ? "the same in all that both sides have" : text;
}

}  // namespace

std::string one_line(std::string_view bytes) { return printable(bytes, Newlines::kEscape); }

std::string megabytes(std::uint64_t bytes) {
  return fmt::format("{:.2f} MB", static_cast<double>(bytes) / 1e6);
}

std::string packing_ratio(std::uint64_t packed, std::uint64_t original) {
  if (original == 0) return "n/a";
  return fmt::format("{:.3f} of it", static_cast<double>(packed) / static_cast<double>(original));
}

std::string rate(double tokens_per_second_value) {
  return std::isfinite(tokens_per_second_value) ? fmt::format("{:.2f}", tokens_per_second_value)
                                                : "n/a";
}

std::string percentage(std::uint64_t part, std::uint64_t whole) {
  if (whole == 0) return "n/a";
  if (part >= whole) return "100.0%";
  return percentage(static_cast<double>(part) / static_cast<double>(whole));
}

std::string percentage(double fraction) {
  if (!std::isfinite(fraction)) return "n/a";
  if (fraction >= 1.0) return "100.0%";
  // The nudge keeps 0.57 from becoming 56.9 through its binary form.
  const double tenths = std::min(std::floor(fraction * 1000.0 + 1e-9), 999.0);
  return fmt::format("{:.1f}%", tenths / 10.0);
}

std::string correlation(double value) {
  if (!std::isfinite(value) || value >= 1.0) return fmt::format("{:g}", value);
  return fmt::format("{:.6f}", std::floor(value * 1e6) / 1e6);
}

std::string place_of(std::uint64_t token_index) {
  return token_index == 0 ? std::string("prefill") : fmt::format("step {}", token_index - 1);
}

std::string token_quote(std::int32_t token, std::string_view bytes) {
  if (token < 0) return "no finite logit";
  if (bytes.empty()) return fmt::format("#{}", token);
  return '"' + shortened(printable(bytes, Newlines::kEscape), kTokenCharacters) + '"';
}

char kv_letter(analysis::KvKind kind) { return kind == analysis::KvKind::kKey ? 'K' : 'V'; }

bool reroutes(const analysis::RunSummary& run) {
  return run.prefill.kv.rerouted_rows > 0 ||
         std::any_of(run.modes.begin(), run.modes.end(), [](const analysis::ModeSummary& mode) {
           return mode.steps.kv.rerouted_rows > 0;
         });
}

std::string describe_departure(const analysis::Departure& departure, std::uint64_t first_position,
                               Stretch stretch) {
  const std::string layer =
      fmt::format("{} of layer {}", kv_letter(departure.kind), departure.layer);
  const std::string place =
      fmt::format("position {} ({})", first_position + departure.position,
                  stretch == Stretch::kPrefill ? std::string("prompt")
                                               : fmt::format("step {}", departure.position));
  if (departure.figure == "nonfinite") {
    return fmt::format("{} is the first with NaN or Inf, at {}", layer, place);
  }
  const std::string figures = fmt::format(
      "{} {:.2g}, others {}", figure_words(departure.figure), departure.measured,
      departure.typical == 0.0 ? std::string("0") : fmt::format("about {:.2g}", departure.typical));
  return departure.whole_layer
             ? fmt::format("{} as a whole leaves the profile of the others: {}", layer, figures)
             : fmt::format("{} leaves the profile of the others at {}: {}", layer, place, figures);
}

std::string_view rule_status(const analysis::RuleResult& rule) {
  if (!rule.unjudged.empty()) return "SKIPPED";
  if (rule.passed) return "PASS";
  return rule.measured ? "FAIL" : "MISSING";
}

std::string allowed_text(const analysis::GateRule& rule) {
  if (rule.min && rule.max) {
    return *rule.min == *rule.max ? fmt::format("exactly {:.6g}", *rule.min)
                                  : fmt::format("{:.6g} to {:.6g}", *rule.min, *rule.max);
  }
  if (rule.min) return fmt::format("at least {:.6g}", *rule.min);
  if (rule.max) return fmt::format("at most {:.6g}", *rule.max);
  return "anything";
}

std::string measured_text(const analysis::RuleResult& rule) {
  if (!rule.measured) return "-";
  const double value = *rule.measured;
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0.0 ? "infinite" : "-infinite";
  for (int digits = 4; digits < 17; ++digits) {
    std::string text = fmt::format("{:.{}g}", value, digits);
    const double shown = std::strtod(text.c_str(), nullptr);
    if (keeps_bounds(shown, rule.rule) == keeps_bounds(value, rule.rule)) return text;
  }
  return fmt::format("{:.17g}", value);
}

std::string pattern_note(const analysis::RuleResult& rule) {
  if (!rule.unjudged.empty()) return rule.unjudged;
  if (rule.matched <= 1) return {};
  return fmt::format("worst of {} for {}{}", rule.matched,
                     printable(rule.rule.figure, Newlines::kEscape),
                     rule.failed > 0 ? fmt::format(", {} failed", rule.failed) : "");
}

std::size_t failed_rules(const analysis::GateResult& gate) {
  return static_cast<std::size_t>(std::count_if(gate.rules.begin(), gate.rules.end(),
                                                [](const auto& rule) { return !rule.passed; }));
}

bool input_failed(const run::InputResult& input) {
  if (!input.replay) return false;
  return std::any_of(input.replay->modes.begin(), input.replay->modes.end(), [](const auto& mode) {
    return mode.comparison.count(analysis::TokenVerdict::kHardFlip) > 0 ||
           mode.comparison.nonfinite();
  });
}

std::string verdict_title(const run::Verdict& verdict) {
  return fmt::format("{} ({}): {} against {}",
                     verdict.model_id.empty() ? verdict.model_slug : verdict.model_id,
                     verdict.dtype, verdict.device, verdict.reference_device);
}

std::string numerics_text(const analysis::NumericList& list) {
  constexpr std::size_t kShown = 12;
  if (list.known()) return list.digest.substr(0, kShown);
  return fmt::format("unknown, the recording does not tell: {}", fmt::join(list.missing, ", "));
}

std::string_view shape_notice(run::ReplayShape shape) {
  switch (shape) {
    case run::ReplayShape::kRecorded: return {};
    case run::ReplayShape::kSingle: return kSingleInputs;
    case run::ReplayShape::kParallel: return kParallelReplay;
  }
  return {};
}

std::string numerics_line(const run::Verdict& verdict) {
  if (!verdict.numerics) return {};
  return fmt::format("Numerical policy: {}. Platform: {}.",
                     agreement_text(verdict.numerics->policy),
                     agreement_text(verdict.numerics->platform));
}

std::string cache_line(const run::Verdict& verdict) {
  if (verdict.cache == verdict.reference_cache) {
    return verdict.cache == kContiguous ? std::string() : "K/V cache: " + verdict.cache;
  }
  return "K/V cache: " + verdict.cache + " against " + verdict.reference_cache;
}

std::string cache_line(const run::UsedCache& used) {
  if (used.spec == kContiguous) return {};
  std::string line =
      fmt::format("K/V cache: {}, {} of {} positions, at most {} allocated for {} of K/V",
                  used.spec, used.use.length, used.use.capacity, megabytes(used.use.peak_bytes),
                  megabytes(used.use.logical_bytes));
  if (used.use.places.size() > 1) {
    line += " (";
    for (const cache::PlaceBytes& place : used.use.places) {
      line += fmt::format("{}{} {}", &place == &used.use.places.front() ? "" : ", ", place.place,
                          megabytes(place.bytes));
    }
    line += fmt::format("), {} moved", megabytes(used.use.moved_bytes));
  }
  const cache::PageTraffic& pages = used.use.pages;
  if (const auto rate = pages.hit_rate()) {
    line += fmt::format(", {:.1f} % of the pages that steps read were there", 100.0 * *rate);
  }
  if (pages.prefetched > 0) {
    line += fmt::format(", {} pages fetched ahead, {} of them used", pages.prefetched,
                        pages.prefetch_hits);
  }
  if (used.use.emulated_link) line += ", emulated link";
  if (used.use.visible_keys > 0) {
    line += fmt::format(", steps saw {:.1f} % of their keys",
                        100.0 * static_cast<double>(used.use.seen_keys) /
                            static_cast<double>(used.use.visible_keys));
  }
  return line;
}

std::string cache_suffix(const std::string& spec) {
  return spec == kContiguous ? std::string() : ", K/V cache " + spec;
}

std::string divergence_text(const analysis::ModeSummary& mode) {
  const auto diverged = std::count_if(mode.first_divergences.begin(), mode.first_divergences.end(),
                                      [](const auto& input) { return input.token.has_value(); });
  std::string text = fmt::format("{}: {} of {}", format::replay_mode_name(mode.mode), diverged,
                                 counted(mode.first_divergences.size(), "input"));
  if (mode.agreed_tokens_min && mode.agreed_tokens_median) {
    text += fmt::format("; agreed tokens: min {:g}, median {:g}", *mode.agreed_tokens_min,
                        *mode.agreed_tokens_median);
  }
  return text;
}

}  // namespace kvtool::report
