// The verdict on one model, and inputs that failed, in Markdown.
#include <fmt/format.h>

#include <algorithm>

#include "kvtool/base/text.h"
#include "markdown/markdown_page.h"
#include "mismatches.h"
#include "mode_table.h"
#include "wording.h"

namespace kvtool::report {
namespace {

constexpr std::size_t kMarkdownDivergences = 20;
constexpr std::size_t kMarkdownFlips = 20;

std::string token_code(std::int32_t token, const std::string& bytes) {
  return markdown_code(token_quote(token, bytes));
}

std::string gate_block(const run::Verdict& verdict) {
  const analysis::GateResult& gate = verdict.gate;
  std::string text =
      fmt::format("### Gate {}: {}\n\n", markdown_text(gate.gate), gate.passed ? "PASS" : "FAIL");
  if (!verdict.gate_description.empty()) {
    text += markdown_text(verdict.gate_description) + "\n\n";
  }
  MarkdownTable table({"", "figure", ">measured", "allowed"});
  // The limit of a table's rows must not hide a failure.
  std::vector<const analysis::RuleResult*> rules;
  for (const analysis::RuleResult& rule : gate.rules) rules.push_back(&rule);
  std::stable_partition(rules.begin(), rules.end(), [](const auto* rule) { return !rule->passed; });
  for (const analysis::RuleResult* rule : rules) {
    const std::string status(rule_status(*rule));
    const std::string note = pattern_note(*rule);
    table.row({rule->passed ? status : "**" + status + "**",
               markdown_code(rule->figure) + (note.empty() ? "" : " (" + markdown_text(note) + ")"),
               measured_text(*rule), allowed_text(rule->rule)});
  }
  return table.empty() ? text : text + table.text();
}

std::string modes_block(const run::Verdict& verdict) {
  const ModeTable modes = mode_table(verdict);
  std::vector<std::string> columns = {""};
  for (const std::string& column : modes.columns) columns.push_back(">" + column);
  MarkdownTable table(columns);
  for (const ModeTable::Row& row : modes.rows) {
    std::vector<std::string> cells = {row.label};
    cells.insert(cells.end(), row.cells.begin(), row.cells.end());
    table.row(cells);
  }
  std::string text = "### Modes\n\n" + table.text();
  for (const std::string& line : {flips_note(verdict), amplification_text(verdict.run)}) {
    if (!line.empty()) text += line + "\n\n";
  }
  return text;
}

std::string departure_line(const std::string& name, const analysis::KvSummary& kv,
                           Stretch stretch) {
  if (!kv.departure) return {};
  return fmt::format(
      "- {}, {}: {}\n", name, to_string(kv.departure_input),
      markdown_text(describe_departure(*kv.departure, kv.departure_first_position, stretch)));
}

std::string departures_block(const analysis::RunSummary& run) {
  std::string lines = departure_line("prefill", run.prefill.kv, Stretch::kPrefill);
  for (const analysis::ModeSummary& mode : run.modes) {
    lines += departure_line(std::string(format::replay_mode_name(mode.mode)), mode.steps.kv,
                            Stretch::kSteps);
  }
  return lines.empty() ? lines : lines + "\n";
}

std::string divergences_block(const run::Verdict& verdict, const analysis::ModeSummary& mode,
                              const FlipTexts& texts) {
  MarkdownTable table({"input", "token", "class", "predicted", "recorded", "by how much"});
  std::size_t diverged = 0;
  for (const analysis::FirstDivergence& input : mode.first_divergences) {
    if (!input.token || ++diverged > kMarkdownDivergences) continue;
    const run::TokenText& text =
        texts.find(verdict.model_slug, input.input, mode.mode, input.token->index);
    table.row({to_string(input.input), place_of(input.token->index),
               std::string(class_text(input.token->verdict)),
               token_code(input.token->predicted, text.predicted),
               token_code(input.token->recorded, text.recorded),
               describe_gap(*input.token, verdict.flip_bounds)});
  }
  if (table.empty()) return {};
  std::string text =
      fmt::format("First divergences of {}\n\n", divergence_text(mode)) + table.text();
  if (diverged > kMarkdownDivergences) {
    text += fmt::format("… and in {} more.\n\n", counted(diverged - kMarkdownDivergences, "input"));
  }
  return text;
}

std::string flips_block(const run::Verdict& verdict, const analysis::ModeSummary& mode,
                        const FlipTexts& texts) {
  if (mode.hard_flips.empty()) return {};
  MarkdownTable table({"input", "token", "predicted", "recorded", "by how much"});
  const std::size_t listed = std::min(mode.hard_flips.size(), kMarkdownFlips);
  for (std::size_t i = 0; i < listed; ++i) {
    const analysis::HardFlip& flip = mode.hard_flips[i];
    const run::TokenText& text =
        texts.find(verdict.model_slug, flip.input, mode.mode, flip.token.index);
    table.row({to_string(flip.input), place_of(flip.token.index),
               token_code(flip.token.predicted, text.predicted),
               token_code(flip.token.recorded, text.recorded),
               describe_gap(flip.token, verdict.flip_bounds)});
  }
  std::string text = fmt::format("**Hard flips of {}: {}**\n\n",
                                 format::replay_mode_name(mode.mode), count_hard_flips(mode)) +
                     table.text();
  if (count_hard_flips(mode) > listed) {
    text += fmt::format("… and {} more.\n\n", count_hard_flips(mode) - listed);
  }
  return text;
}

std::string provenance_block(const run::Verdict& verdict) {
  if (verdict.provenance.empty()) return {};
  MarkdownTable table({"differs", "recorded", "live", "what it can change"});
  for (const analysis::ProvenanceDifference& difference : verdict.provenance) {
    table.row({markdown_text(difference.title()), markdown_code(difference.recorded),
               markdown_code(difference.live), markdown_text(difference.why)});
  }
  return "### Provenance\n\n" + table.text();
}

std::string mode_lines(const run::ModeReplay& mode, const run::InputResult& input) {
  const analysis::RowComparison& row = mode.comparison;
  const TokenCounts counts = count_steps(row);
  const std::string mismatches = mismatch_counts(count_tokens(row));
  std::string text = fmt::format(
      "- {}: {}/{} steps match ({}){}{}{}\n", format::replay_mode_name(mode.mode), counts.matches,
      counts.compared, percentage(counts.matches, counts.compared), mismatches.empty() ? "" : ", ",
      mismatches, row.nonfinite() ? ", NaN or Inf" : "");
  if (const auto departure = row.prefill_departure()) {
    text += "  - " + markdown_text(describe_departure(*departure, 0, Stretch::kPrefill)) + "\n";
  }
  if (const auto departure = row.step_departure()) {
    text += "  - " +
            markdown_text(describe_departure(*departure, input.prompt_length, Stretch::kSteps)) +
            "\n";
  }
  return text;
}

}  // namespace

void add_markdown_verdict(MarkdownPage& page, const run::Verdict& verdict, const FlipTexts& texts) {
  page.add("## " + markdown_text(verdict_title(verdict)) + "\n\n");
  if (verdict.different_weights) page.add("**" + std::string(kDifferentWeights) + "**\n\n");
  if (verdict.different_config) page.add("**" + std::string(kDifferentConfig) + "**\n\n");
  if (const std::string caches = cache_line(verdict); !caches.empty()) {
    page.add(markdown_text(caches) + "\n\n");
  }
  if (verdict.parallel) page.add(std::string(kParallelReplay) + "\n\n");
  if (const std::string numerics = numerics_line(verdict); !numerics.empty()) {
    page.add(markdown_text(numerics) + "\n\n");
  }
  page.add(judged_line(verdict) + "\n\n");
  if (!verdict.finding_text.empty()) page.add(escape_markdown(verdict.finding_text) + "\n\n");
  page.add(gate_block(verdict));
  page.add(modes_block(verdict));
  page.add(departures_block(verdict.run));
  for (const analysis::ModeSummary& mode : verdict.run.modes) {
    page.add(divergences_block(verdict, mode, texts));
    page.add(flips_block(verdict, mode, texts));
  }
  page.add(provenance_block(verdict));
}

std::string markdown_failed_input(const run::InputResult& input) {
  std::string text = fmt::format("<details><summary>{} of {}</summary>\n\n",
                                 to_string(input.name()), markdown_text(input.model_slug));
  text += "- recording: " + markdown_code(input.replay->recording) + "\n";
  text += "- prompt: " + markdown_code(input.prompt_text) + "\n";
  MarkdownTable table({"mode", "token", "class", "predicted", "recorded", "by how much"});
  for (const run::ModeReplay& mode : input.replay->modes) {
    text += mode_lines(mode, input);
    std::size_t flips = 0;
    for (std::size_t i = 0; i < mode.comparison.tokens.size() && flips < kMarkdownFlips; ++i) {
      const analysis::TokenComparison& token = mode.comparison.tokens[i];
      if (token.verdict != analysis::TokenVerdict::kHardFlip) continue;
      ++flips;
      table.row({std::string(format::replay_mode_name(mode.mode)), place_of(token.index),
                 std::string(class_text(token.verdict)),
                 token_code(token.predicted, mode.texts.at(i).predicted),
                 token_code(token.recorded, mode.texts.at(i).recorded),
                 describe_gap(token, mode.comparison.bounds)});
    }
  }
  text += "\n";
  if (!table.empty()) text += table.text();
  return text + "</details>\n\n";
}

}  // namespace kvtool::report
