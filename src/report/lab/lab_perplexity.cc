// Perplexity of texts that caches have read, in words and as JSON.
#include <fmt/format.h>

#include "kvtool/base/text.h"
#include "lab/lab_tables.h"
#include "wording.h"

namespace kvtool::report {
namespace {

using run::LabPerplexity;
using run::PerplexityRow;

std::string perplexity_cell(const PerplexityRow& row) {
  return row.perplexity ? fmt::format("{:.3f}", *row.perplexity) : "-";
}

std::string increase_cell(const PerplexityRow& row) {
  if (!row.increase || row.role == run::LabRole::kFull) return "-";
  if (!row.increase_low) return fmt::format("{:+.2f}%", 100.0 * *row.increase);
  return fmt::format("{:+.2f}% ({:+.2f} to {:+.2f})", 100.0 * *row.increase,
                     100.0 * *row.increase_low, 100.0 * row.increase_high.value_or(0.0));
}

std::string perplexity_note(const PerplexityRow& row) {
  std::string note = reading_note(row);
  if (row.nonfinite > 0) note += fmt::format(", {} without a probability", row.nonfinite);
  return note;
}

Json json_perplexity_row(const PerplexityRow& row) {
  Json json = json_reading(row);
  json["tokens"] = row.tokens;
  json["nonfinite"] = row.nonfinite;
  json["perplexity"] = json_number(row.perplexity);
  json["increase"] = json_number(row.increase);
  json["increase_low95"] = json_number(row.increase_low);
  json["increase_high95"] = json_number(row.increase_high);
  return json;
}

}  // namespace

std::string reading_note(const run::LabReading& reading) {
  if (!reading.missing.empty()) return "did not run: " + one_line(reading.missing);
  if (reading.role == run::LabRole::kFull) return {};
  if (reading.role == run::LabRole::kNoise) return reading.note;
  if (!reading.acted) return "the policy did NOTHING here";
  return reading.seen_share ? fmt::format("{:.1f}% of the keys", 100.0 * *reading.seen_share) : "";
}

Json json_reading(const run::LabReading& reading) {
  return {{"role", run::lab_role_name(reading.role)},
          {"name", json_text(reading.name)},
          {"spec", json_text(reading.spec)},
          {"note", json_known(reading.note)},
          {"missing", json_known(reading.missing)},
          {"acted", reading.acted},
          {"seen_share", json_number(reading.seen_share)}};
}

LabTable perplexity_table(const LabPerplexity& perplexity) {
  LabTable table{.title = fmt::format("Perplexity at {} tokens", perplexity.context),
                 .head = {"row", "tokens", "perplexity", "increase over full", ""},
                 .rows = {},
                 .lines = {}};
  for (const PerplexityRow& row : perplexity.rows) {
    table.rows.push_back({one_line(row.name), row.counts() ? std::to_string(row.tokens) : "-",
                          perplexity_cell(row), increase_cell(row), perplexity_note(row)});
  }
  table.lines = {fmt::format(
      "{}, {}: {} read in one pass and not scored, {} then read one by one through the cache and "
      "scored. The increase is of the same tokens, and its interval (95 %) 1.96 standard errors of "
      "their mean difference in log likelihood, tokens taken as independent.",
      one_line(perplexity.text), counted(perplexity.windows, "window"),
      counted(perplexity.prompt, "token"), perplexity.tokens)};
  return table;
}

Json json_perplexity(const std::vector<LabPerplexity>& perplexities) {
  Json list = Json::array();
  for (const LabPerplexity& perplexity : perplexities) {
    Json rows = Json::array();
    for (const PerplexityRow& row : perplexity.rows) rows.push_back(json_perplexity_row(row));
    list.push_back({{"text", json_text(perplexity.text)},
                    {"context", perplexity.context},
                    {"windows", perplexity.windows},
                    {"prompt_tokens", perplexity.prompt},
                    {"scored_tokens", perplexity.tokens},
                    {"rows", std::move(rows)}});
  }
  return list;
}

}  // namespace kvtool::report
