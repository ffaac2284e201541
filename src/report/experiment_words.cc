#include "experiment_words.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <set>

#include "cache_bench_words.h"
#include "kvtool/base/text.h"
#include "wording.h"

namespace kvtool::report {
namespace {

using run::Experiment;
using run::ExperimentRun;
using run::Spread;

constexpr const char* kNothing = "-";

std::optional<Spread> spread_over(const Experiment& experiment,
                                  double (*value)(const ExperimentRun& run)) {
  std::vector<double> values;
  for (const ExperimentRun& run : experiment.runs) values.push_back(value(run));
  return run::spread_of(std::move(values));
}

std::optional<Spread> rate_over(const Experiment& experiment,
                                std::optional<double> (*value)(const ExperimentRun& run)) {
  std::vector<double> values;
  for (const ExperimentRun& run : experiment.runs) {
    if (const auto each = value(run)) values.push_back(*each);
  }
  return run::spread_of(std::move(values));
}

std::string middle(const std::optional<Spread>& spread) {
  return spread ? three_digits(spread->median) : kNothing;
}

std::string middle_and_range(const std::optional<Spread>& spread) {
  if (!spread) return kNothing;
  return fmt::format("{} ({}-{})", three_digits(spread->median), three_digits(spread->least),
                     three_digits(spread->most));
}

std::string share(const std::optional<Spread>& spread) {
  return spread ? fmt::format("{:.1f}%", 100.0 * spread->median) : kNothing;
}

std::string bytes(const std::optional<Spread>& spread) {
  if (!spread) return kNothing;
  return spread->median == 0.0
             ? "0"
             : megabytes(static_cast<std::uint64_t>(std::llround(spread->median)));
}

std::string agreement_of(const run::LabQuality& quality) {
  if (!quality.agreement) return kNothing;
  return fmt::format("{} ({:.1f}-{:.1f})", percentage(*quality.agreement),
                     100.0 * quality.agreement_low.value_or(0.0),
                     100.0 * quality.agreement_high.value_or(0.0));
}

std::string divergence_of(const run::LabQuality& quality) {
  if (!quality.kl_mean) return kNothing;
  if (*quality.kl_mean == 0.0) return "0";
  return fmt::format("{}{:.1e}", quality.kl_is_estimate ? "" : "≥ ", *quality.kl_mean);
}

constexpr std::array kExperimentColumns = {
    ExperimentColumn{"latency ms", ExperimentGroup::kTime, 22,
                     [](const Experiment& e) {
                       return middle_and_range(
                           spread_over(e, [](const ExperimentRun& r) { return r.total_ms; }));
                     }},
    ExperimentColumn{"first ms", ExperimentGroup::kTime, 9,
                     [](const Experiment& e) {
                       return middle(
                           spread_over(e, [](const ExperimentRun& r) { return r.first_token_ms; }));
                     }},
    ExperimentColumn{"token ms", ExperimentGroup::kTime, 9,
                     [](const Experiment& e) {
                       return middle(
                           spread_over(e, [](const ExperimentRun& r) { return r.per_token_ms(); }));
                     }},
    ExperimentColumn{"tokens/s", ExperimentGroup::kTime, 9,
                     [](const Experiment& e) {
                       return middle(spread_over(
                           e, [](const ExperimentRun& r) { return r.tokens_per_second(); }));
                     }},
    ExperimentColumn{"on the device", ExperimentGroup::kMemory, 14,
                     [](const Experiment& e) {
                       return bytes(spread_over(e, [](const ExperimentRun& r) {
                         return static_cast<double>(run::device_peak_bytes(r.use));
                       }));
                     }},
    ExperimentColumn{"moved", ExperimentGroup::kMemory, 10,
                     [](const Experiment& e) {
                       return bytes(spread_over(e, [](const ExperimentRun& r) {
                         return static_cast<double>(r.use.moved_bytes);
                       }));
                     }},
    ExperimentColumn{"hits", ExperimentGroup::kMemory, 7,
                     [](const Experiment& e) {
                       return share(rate_over(
                           e, [](const ExperimentRun& r) { return r.use.pages.hit_rate(); }));
                     }},
    ExperimentColumn{"inner", ExperimentGroup::kMemory, 7,
                     [](const Experiment& e) {
                       return share(rate_over(
                           e, [](const ExperimentRun& r) { return r.use.pages.inner_hit_rate(); }));
                     }},
    ExperimentColumn{"foreseen", ExperimentGroup::kMemory, 9,
                     [](const Experiment& e) {
                       return share(rate_over(
                           e, [](const ExperimentRun& r) { return r.use.pages.precision(); }));
                     }},
    ExperimentColumn{"stalled", ExperimentGroup::kMemory, 8,
                     [](const Experiment& e) {
                       return share(
                           rate_over(e, [](const ExperimentRun& r) { return r.stall_share(); }));
                     }},
    ExperimentColumn{"agreement", ExperimentGroup::kQuality, 22,
                     [](const Experiment& e) { return agreement_of(e.quality); }},
    ExperimentColumn{"hard", ExperimentGroup::kQuality, 6,
                     [](const Experiment& e) {
                       return e.quality.compared == 0 ? std::string(kNothing)
                                                      : std::to_string(e.quality.hard_flips);
                     }},
    ExperimentColumn{"KL mean", ExperimentGroup::kQuality, 11,
                     [](const Experiment& e) { return divergence_of(e.quality); }},
    ExperimentColumn{"read a step", ExperimentGroup::kQuality, 12,
                     [](const Experiment& e) {
                       return e.read_bytes_per_step ? megabytes(static_cast<std::uint64_t>(
                                                          std::llround(*e.read_bytes_per_step)))
                                                    : std::string(kNothing);
                     }},
};

// "12.0 % less time (from 8.0 to 15.0)", "3.0 % more time", "as much time".
std::string change(const Spread& saved, const std::string& what, const char* less = "less",
                   const char* more = "more") {
  if (saved.least == 0.0 && saved.most == 0.0) return "as much " + what;
  const bool is_less = saved.mean >= 0.0;
  std::string text =
      fmt::format("{:.1f} % {} {}", std::abs(saved.mean), is_less ? less : more, what);
  if (saved.count > 1) {
    text += fmt::format(" (from {:.1f} to {:.1f})", is_less ? saved.least : -saved.most,
                        is_less ? saved.most : -saved.least);
  }
  return text;
}

std::string time_words(const run::ModeComparison& comparison) {
  const std::string latency = change(*comparison.latency_speedup_percent, "time");
  if (comparison.within_spread) {
    return "as fast as the baseline within the spread of the runs (" + latency + ")";
  }
  // What is positive here is more.
  return latency + ", " +
         change(*comparison.throughput_speedup_percent, "tokens a second", "more", "fewer");
}

std::string comparison_claim(const run::ModeComparison& comparison) {
  if (!comparison.missing.empty()) {
    return comparison.mode + ": nothing is claimed: " + comparison.missing;
  }
  const run::LabQuality& quality = comparison.quality;
  return fmt::format("{}: {}, {}; {} of {} tokens of the baseline, {}, mean KL {}", comparison.mode,
                     time_words(comparison),
                     change(*comparison.memory_saving_percent, "memory of the device"),
                     agreement_of(quality), quality.compared,
                     counted(quality.hard_flips, "hard flip"), divergence_of(quality));
}

}  // namespace

std::span<const ExperimentColumn> experiment_columns() { return kExperimentColumns; }

std::string experiment_cell(const ExperimentColumn& column, const run::Experiment& experiment) {
  return column.cell(experiment);
}

std::string experiment_label(const run::ExperimentResult& result,
                             const run::Experiment& experiment) {
  std::set<std::size_t> same_mode;
  std::set<std::string> models;
  for (const Experiment& each : result.experiments) {
    models.insert(each.settings.model);
    if (each.settings.mode == experiment.settings.mode &&
        each.settings.model == experiment.settings.model) {
      same_mode.insert(each.entry);
    }
  }
  std::string label = experiment.settings.mode;
  if (same_mode.size() > 1) label += fmt::format(" ({})", experiment.entry);
  if (models.size() > 1) {
    label += " of " +
             (experiment.model_slug.empty() ? experiment.settings.model : experiment.model_slug);
  }
  return label;
}

std::string experiment_line(const run::Experiment& experiment) {
  std::string line = experiment.spec;
  if (!experiment.failure.empty()) line += "; FAILED: " + experiment.failure;
  if (experiment.failure.empty() && !experiment.succeeded()) {
    line += fmt::format("; {} of {} done", experiment.runs.size(),
                        counted(experiment.settings.runs, "run"));
  }
  if (experiment.shortened()) {
    line +=
        fmt::format("; {} tokens of context instead of {}, for which the model has no positions",
                    experiment.context, experiment.asked_context);
  }
  if (!experiment.idle.empty()) line += "; the policy did NOTHING: " + experiment.idle;
  if (!experiment.unjudged.empty()) line += "; no quality: " + experiment.unjudged;
  if (experiment.resumed > 0) {
    line += fmt::format("; {} of an earlier command", counted(experiment.resumed, "run"));
  }
  return line;
}

std::vector<std::string> experiment_claims(const run::ExperimentResult& result) {
  std::vector<std::string> lines;
  for (const run::ModeComparison& comparison : result.comparisons()) {
    lines.push_back(comparison_claim(comparison));
  }
  return lines;
}

std::vector<std::string> experiment_setting_lines(const run::ExperimentResult& result) {
  std::vector<std::string> lines = {
      fmt::format("{} of {} succeeded in {:.1f} s{}; prompts: {}", result.successful(),
                  counted(result.experiments.size(), "experiment"), result.seconds,
                  result.interrupted ? ", interrupted" : "", result.prompts),
      "Times are medians over the runs, of the whole generation (least-most), its first token and "
      "each later one. Memory is the most that K/V took. Hits are pages that a step wanted and "
      "found "
      "on the device, inner ones without the first and last pages, which every step wants; "
      "foreseen "
      "are those of the pages fetched ahead that a step then used, and stalled is the share of "
      "decoding in which steps waited for pages. Agreement, hard flips and KL are of the "
      "baseline's "
      "tokens, fed under each cache."};
  for (const std::string& note : result.notes) lines.push_back("Note: " + note);
  return lines;
}

}  // namespace kvtool::report
