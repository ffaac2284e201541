#include "lab/lab_words.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "cache_bench_words.h"
#include "kvtool/base/text.h"
#include "kvtool/run/cache_bench.h"
#include "lab/lab_page_columns.h"
#include "wording.h"

namespace kvtool::report {
namespace {

using run::LabRow;

constexpr const char* kNoFigure = "-";
constexpr double kLow = 0.05;
constexpr double kHigh = 0.95;

std::string scientific(const std::optional<double>& value) {
  if (!value || !std::isfinite(*value)) return kNoFigure;
  return *value == 0.0 ? "0" : fmt::format("{:.1e}", *value);
}

std::string percent(const std::optional<double>& value, int digits = 1) {
  return value ? fmt::format("{:.{}f}%", 100.0 * *value, digits) : kNoFigure;
}

std::string bytes_cell(double value) {
  return std::isfinite(value) ? fmt::format("{:.0f}", value) : kNoFigure;
}

std::string agreement(const LabRow& row) {
  const run::LabQuality& quality = row.quality;
  if (!quality.agreement) return kNoFigure;
  return fmt::format("{} ({:.1f}-{:.1f})", percentage(*quality.agreement),
                     100.0 * quality.agreement_low.value_or(0.0),
                     100.0 * quality.agreement_high.value_or(0.0));
}

std::string expected(const LabRow& row) {
  const run::LabQuality& quality = row.quality;
  if (!quality.expected_flips) return fmt::format("{} : -", quality.flips());
  return fmt::format("{} : {:.1f} ± {:.1f}", quality.flips(), *quality.expected_flips,
                     quality.expected_deviation.value_or(0.0));
}

std::string kl_mean(const LabRow& row) { return lab_kl_mean(row.quality); }

std::string divergence(const LabRow& row) {
  if (!row.quality.agreed_median) return kNoFigure;
  return fmt::format("{:.0f} ({:.0f})", *row.quality.agreed_median,
                     row.quality.agreed_min.value_or(0.0));
}

std::string regret(const LabRow& row) {
  if (row.regret_ratio) return fmt::format("x{}", three_digits(*row.regret_ratio));
  if (row.regret_difference) return "+" + scientific(row.regret_difference);
  return kNoFigure;
}

std::string gate_cell(const LabRow& row) { return row.gate_passed ? "PASS" : "FAIL"; }

std::string kept_share(const LabRow& row) {
  const double share = row.bytes.kept_share();
  return std::isfinite(share) ? percent(share) : kNoFigure;
}

std::string read_cell(const LabRow& row) {
  if (!row.bytes.read_bytes_per_step || row.bytes.positions == 0) return kNoFigure;
  return megabytes(static_cast<std::uint64_t>(std::llround(*row.bytes.read_bytes_per_step)));
}

std::string moved_cell(const LabRow& row) {
  if (row.bytes.moved_bytes == 0) return row.bytes.positions == 0 ? kNoFigure : "0";
  return megabytes(row.bytes.moved_bytes);
}

std::string prefill_cell(const LabRow& row) {
  return row.time.prefill_ms.empty() ? kNoFigure
                                     : three_digits(run::quantile_of(row.time.prefill_ms, 0.5));
}

std::string step_cell(const LabRow& row) {
  if (!row.time.measured()) return kNoFigure;
  return fmt::format("{} ({}-{})", three_digits(run::quantile_of(row.time.step_ms, 0.5)),
                     three_digits(run::quantile_of(row.time.step_ms, kLow)),
                     three_digits(run::quantile_of(row.time.step_ms, kHigh)));
}

std::string applied_cell(const LabRow& row) {
  if (row.role == run::LabRole::kNoise) return kNoFigure;
  if (!row.idle.empty()) return "NOTHING";
  std::string words;
  const auto add = [&](const std::string& part) { words += (words.empty() ? "" : ", ") + part; };
  const run::LabApplied& applied = row.applied;
  if (applied.applied_rows > 0) add(fmt::format("{} rows", applied.applied_rows));
  if (const auto seen = applied.seen_share()) add(percent(seen) + " keys");
  if (applied.paged_out > 0) add(fmt::format("{} pages back", applied.read_back));
  return words.empty() ? kNoFigure : words;
}

constexpr std::array kColumns = {
    LabColumn{"agreement", LabGroup::kFlips, 21, agreement},
    LabColumn{"explained", LabGroup::kFlips, 10,
              [](const LabRow& row) { return std::to_string(row.quality.explained()); }},
    LabColumn{"hard", LabGroup::kFlips, 6,
              [](const LabRow& row) { return std::to_string(row.quality.hard_flips); }},
    LabColumn{"seen : expected", LabGroup::kFlips, 18, expected},
    LabColumn{"KL mean", LabGroup::kLogits, 19, kl_mean},
    LabColumn{"KL median", LabGroup::kLogits, 10,
              [](const LabRow& row) { return scientific(row.quality.kl_median); }},
    LabColumn{"KL p99", LabGroup::kLogits, 9,
              [](const LabRow& row) { return scientific(row.quality.kl_p99); }},
    LabColumn{"same top", LabGroup::kLogits, 9,
              [](const LabRow& row) { return percent(row.quality.same_top); }},
    LabColumn{"RMS Δp", LabGroup::kLogits, 8,
              [](const LabRow& row) { return percent(row.quality.rms_delta_p, 2); }},
    LabColumn{"K L2", LabGroup::kRows, 9,
              [](const LabRow& row) { return scientific(row.quality.key_l2); }},
    LabColumn{"V L2", LabGroup::kRows, 9,
              [](const LabRow& row) { return scientific(row.quality.value_l2); }},
    LabColumn{"attn L2", LabGroup::kRows, 9,
              [](const LabRow& row) { return scientific(row.attention_l2); }},
    LabColumn{"parts after", LabGroup::kRows, 13, divergence},
    LabColumn{"regret", LabGroup::kRows, 10, regret},
    LabColumn{"gate", LabGroup::kRows, 6, gate_cell},
    LabColumn{"logical", LabGroup::kBytes, 9,
              [](const LabRow& row) { return bytes_cell(row.bytes.logical_per_token()); }},
    LabColumn{"kept", LabGroup::kBytes, 8,
              [](const LabRow& row) { return bytes_cell(row.bytes.kept_per_token()); }},
    LabColumn{"of it", LabGroup::kBytes, 8, kept_share},
    LabColumn{"peak", LabGroup::kBytes, 8,
              [](const LabRow& row) { return bytes_cell(row.bytes.peak_per_token()); }},
    LabColumn{"read a step", LabGroup::kBytes, 13, read_cell},
    LabColumn{"moved", LabGroup::kBytes, 11, moved_cell},
    LabColumn{"prefill ms", LabGroup::kTime, 11, prefill_cell},
    LabColumn{"step ms", LabGroup::kTime, 20, step_cell},
    LabColumn{"applied", LabGroup::kTime, 26, applied_cell},
};

// From 5 to 95 %: what a busy machine does to times is not the policy's.
bool overlap(const std::vector<double>& a, const std::vector<double>& b) {
  return run::quantile_of(a, kLow) <= run::quantile_of(b, kHigh) &&
         run::quantile_of(b, kLow) <= run::quantile_of(a, kHigh);
}

std::string time_claim(const LabRow& row, const LabRow& full) {
  if (!row.time.measured() || !full.time.measured()) return {};
  const double own = run::quantile_of(row.time.step_ms, 0.5);
  const double whole = run::quantile_of(full.time.step_ms, 0.5);
  if (!(own > 0.0) || !(whole > 0.0)) return {};
  const std::string times = fmt::format("{} against {} ms", step_cell(row), step_cell(full));
  if (overlap(row.time.step_ms, full.time.step_ms)) {
    return ", steps take as long within their spread (" + times + ")";
  }
  return fmt::format(", a step takes {} times as long ({})", three_digits(own / whole), times);
}

std::string claim(const LabRow& row, const LabRow& full) {
  std::string text = row.name + ":";
  if (std::isfinite(row.bytes.kept_share())) {
    text += fmt::format(" keeps K/V in {} of its bytes", kept_share(row));
  }
  if (row.bytes.read_bytes_per_step && full.bytes.read_bytes_per_step.value_or(0.0) > 0.0) {
    text += fmt::format(", reads {} of what a step of full reads",
                        percent(*row.bytes.read_bytes_per_step / *full.bytes.read_bytes_per_step));
  }
  text += time_claim(row, full);
  return text + fmt::format("; agreement {}, hard flips {}, KL mean {}", agreement(row),
                            row.quality.hard_flips, kl_mean(row));
}

}  // namespace

std::vector<LabColumn> lab_columns() {
  std::vector<LabColumn> columns(kColumns.begin(), kColumns.end());
  columns.insert(columns.end(), lab_page_columns().begin(), lab_page_columns().end());
  return columns;
}

std::vector<LabColumn> lab_columns(const run::LabResult& result) {
  std::vector<LabColumn> columns = lab_columns();
  std::erase_if(columns, [&](const LabColumn& column) {
    return std::ranges::all_of(
        result.rows, [&](const LabRow& row) { return lab_cell(column, row) == kNoFigure; });
  });
  return columns;
}

std::string lab_cell(const LabColumn& column, const LabRow& row) {
  return row.ran() ? column.cell(row) : kNoFigure;
}

std::string lab_kl_mean(const run::LabQuality& quality) {
  if (!quality.kl_mean) return kNoFigure;
  if (!quality.kl_is_estimate) return "≥ " + scientific(quality.kl_mean);
  return fmt::format("{} ± {}", scientific(quality.kl_mean), scientific(quality.kl_error));
}

std::string lab_label(const LabRow& row, std::size_t characters) {
  const std::string budget = row.budget.empty() ? "" : " " + row.budget;
  return shortened(one_line(row.given), characters - budget.size()) + budget;
}

std::string lab_row_line(const LabRow& row) {
  std::string line = one_line(row.spec.empty() ? row.given : row.spec);
  if (!row.note.empty()) line += ", " + row.note;
  if (!row.ran()) return line + ": did not run: " + one_line(row.missing);
  if (!row.idle.empty()) {
    return line + ": the policy did NOTHING (" + row.idle +
           "): nothing is claimed for it, and it is left out of comparisons";
  }
  if (!row.gate_passed && !row.gate_failure.empty()) {
    line += fmt::format(" (gate {}: {})", row.gate, one_line(row.gate_failure));
  }
  if (row.paging.ghost) line += "; " + one_line(lab_ghost_words(*row.paging.ghost));
  return line;
}

std::vector<std::string> lab_claims(const run::LabResult& result) {
  std::vector<std::string> lines;
  const LabRow* full = result.full();
  if (full == nullptr) return lines;
  for (const LabRow& row : result.rows) {
    if (row.role == run::LabRole::kPolicy && row.counts()) lines.push_back(claim(row, *full));
  }
  return lines;
}

std::vector<std::string> lab_check_lines(const run::LabResult& result) {
  std::vector<std::string> lines;
  if (result.checks.empty()) return lines;
  std::size_t held = 0;
  for (const run::LabCheck& check : result.checks) {
    if (check.passed) {
      ++held;
      continue;
    }
    lines.push_back(fmt::format("{}: does NOT hold of {} and {}: agreement {}", check.name,
                                one_line(check.better), one_line(check.worse), check.text));
  }
  lines.insert(lines.begin(), fmt::format("Checks: {} of {} hold (full >= policy >= random, larger "
                                          "budget >= smaller, by the intervals of agreement)",
                                          held, result.checks.size()));
  return lines;
}

std::vector<std::string> lab_setting_lines(const run::LabResult& result) {
  const std::string mode = result.rows.empty() ? "" : result.rows.front().mode;
  std::vector<std::string> lines = {
      fmt::format("Recordings: {} ({}, cache {}), {} of {} to {} positions, {}; figures of the "
                  "mode {}.",
                  one_line(result.from), one_line(result.model_id),
                  one_line(result.reference_cache), counted(result.inputs, "input"),
                  result.shortest, result.longest, counted(result.steps, "step"), mode),
      "Bytes are of K/V a token. Times are of replays, whose steps are compared while they run: "
      "median, and from 5 to 95 %."};
  for (const std::string& note : result.notes) lines.push_back("Note: " + note);
  return lines;
}

}  // namespace kvtool::report
