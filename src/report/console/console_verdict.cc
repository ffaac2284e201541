// The verdict on one model: modes side by side, what differs and where, and the
// gate.
#include <algorithm>

#include "console/console_page.h"
#include "mismatches.h"
#include "mode_table.h"
#include "wording.h"

namespace kvtool::report {
namespace {

constexpr std::size_t kConsoleDivergences = 10;
constexpr std::size_t kConsoleFlips = 20;

void show_table(ConsolePage& page, const ModeTable& table) {
  std::size_t label_width = 0;
  std::size_t cell_width = 0;
  for (const std::string& column : table.columns) cell_width = std::max(cell_width, column.size());
  for (const ModeTable::Row& row : table.rows) {
    label_width = std::max(label_width, row.label.size());
    for (const std::string& cell : row.cells)
      cell_width = std::max(cell_width, display_columns(cell));
  }
  const auto show = [&](const std::string& label, const std::vector<std::string>& cells) {
    std::string text = fmt::format("{:<{}}", label, label_width);
    for (const std::string& cell : cells) text += fmt::format("  {:>{}}", cell, cell_width);
    page.line("{}", text);
  };
  show("", table.columns);
  for (const ModeTable::Row& row : table.rows) show(row.label, row.cells);
}

void show_departure(ConsolePage& page, const std::string& name, const analysis::KvSummary& kv,
                    Stretch stretch) {
  if (!kv.departure) return;
  page.wrapped_line(
      fmt::format("{}, {}: {}", name, to_string(kv.departure_input),
                  describe_departure(*kv.departure, kv.departure_first_position, stretch)),
      4);
}

void show_departures(ConsolePage& page, const analysis::RunSummary& run) {
  show_departure(page, "prefill", run.prefill.kv, Stretch::kPrefill);
  for (const analysis::ModeSummary& mode : run.modes) {
    show_departure(page, std::string(format::replay_mode_name(mode.mode)), mode.steps.kv,
                   Stretch::kSteps);
  }
}

void show_worst_step(ConsolePage& page, const analysis::ModeSummary& mode) {
  const analysis::LogitSummary& logits = mode.steps.logits;
  if (!logits.kl().worst) return;
  page.wrapped_line(
      fmt::format("Worst step of {}: {} {:.2g} at {}, {}", format::replay_mode_name(mode.mode),
                  kl_name(logits.kl_estimate.measured > 0), *logits.kl().max,
                  to_string(logits.kl().worst->input), place_of(logits.kl().worst->token_index)),
      4);
}

void show_divergences(ConsolePage& page, const analysis::ModeSummary& mode) {
  std::size_t listed = 0;
  std::size_t diverged = 0;
  for (const analysis::FirstDivergence& input : mode.first_divergences) {
    if (!input.token) continue;
    if (diverged++ == 0) page.wrapped_line("First divergences of " + divergence_text(mode), 4);
    if (listed == kConsoleDivergences) continue;
    ++listed;
    page.line("    {}: {}, {}", to_string(input.input), place_of(input.token->index),
              class_text(input.token->verdict));
  }
  if (diverged > listed) page.line("    ... and in {} more", counted(diverged - listed, "input"));
}

void show_hard_flips(ConsolePage& page, const run::Verdict& verdict,
                     const analysis::ModeSummary& mode, const FlipTexts& texts) {
  if (mode.hard_flips.empty()) return;
  page.line("{}", page.painted(Paint::kBad, fmt::format("Hard flips of {}: {}",
                                                        format::replay_mode_name(mode.mode),
                                                        count_hard_flips(mode))));
  const std::size_t listed = std::min(mode.hard_flips.size(), kConsoleFlips);
  for (std::size_t i = 0; i < listed; ++i) {
    const analysis::HardFlip& flip = mode.hard_flips[i];
    const run::TokenText& text =
        texts.find(verdict.model_slug, flip.input, mode.mode, flip.token.index);
    page.wrapped_line(
        fmt::format("    {}, {}: predicted {}, recorded {}, {}", to_string(flip.input),
                    place_of(flip.token.index), token_quote(flip.token.predicted, text.predicted),
                    token_quote(flip.token.recorded, text.recorded),
                    describe_gap(flip.token, verdict.flip_bounds)),
        6);
  }
  if (count_hard_flips(mode) > listed) {
    page.line("    ... and {} more", count_hard_flips(mode) - listed);
  }
}

void show_provenance(ConsolePage& page, const run::Verdict& verdict, const std::string& command) {
  if (verdict.provenance.empty()) return;
  page.line("Differences that can explain a mismatch:");
  for (const analysis::ProvenanceDifference& difference : verdict.provenance) {
    page.wrapped_line(
        fmt::format("    {}: recorded {}, {} {} - {}", one_line(difference.title()),
                    one_line(difference.recorded), command == "diff" ? "live" : "here",
                    one_line(difference.live), one_line(difference.why)),
        6);
  }
}

}  // namespace

void show_verdict(ConsolePage& page, const run::Verdict& verdict, const FlipTexts& texts,
                  const std::string& command) {
  page.line("");
  page.wrapped_line(page.painted(Paint::kBold, one_line(verdict_title(verdict))), 4);
  if (verdict.different_weights) {
    page.wrapped_line(page.painted(Paint::kBad, std::string(kDifferentWeights)), 4);
  }
  if (verdict.different_config) {
    page.wrapped_line(page.painted(Paint::kBad, std::string(kDifferentConfig)), 4);
  }
  if (const std::string caches = cache_line(verdict); !caches.empty()) {
    page.wrapped_line(one_line(caches), 4);
  }
  if (verdict.parallel) page.wrapped_line(std::string(kParallelReplay), 4);
  if (const std::string numerics = numerics_line(verdict); !numerics.empty()) {
    page.wrapped_line(one_line(numerics), 4);
  }
  page.wrapped_line(judged_line(verdict), 4);
  show_table(page, mode_table(verdict));
  if (const std::string note = flips_note(verdict); !note.empty()) page.wrapped_line(note, 4);
  if (const std::string text = amplification_text(verdict.run); !text.empty()) {
    page.line("{}", text);
  }
  if (!verdict.finding_text.empty()) page.wrapped_line(one_line(verdict.finding_text), 0);
  show_departures(page, verdict.run);
  for (const analysis::ModeSummary& mode : verdict.run.modes) {
    show_worst_step(page, mode);
    show_divergences(page, mode);
    show_hard_flips(page, verdict, mode, texts);
  }
  show_provenance(page, verdict, command);
  show_gate(page, verdict);
}

}  // namespace kvtool::report
