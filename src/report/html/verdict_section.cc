#include <fmt/format.h>

#include "html/escape.h"
#include "html/figures.h"
#include "html/modes_table.h"
#include "html/page_data.h"
#include "html/sections.h"
#include "kvtool/base/text.h"
#include "mismatches.h"
#include "wording.h"

namespace kvtool::report::html {
namespace {

constexpr std::size_t kShownFlips = 200;

std::string stretch_name(const analysis::ModeSummary& mode) {
  return std::string(format::replay_mode_name(mode.mode));
}

std::string mode_list(const analysis::RunSummary& run) {
  std::string names;
  for (const analysis::ModeSummary& mode : run.modes) {
    names += (names.empty() ? "" : ", ") + stretch_name(mode);
  }
  return names.empty() ? "prefill only" : names;
}

// Every token and every K/V element of every stretch that was compared.
bool bitwise_equal(const analysis::Figures& figures) {
  bool judged = false;
  for (const auto& [name, value] : figures) {
    const bool logits = name.ends_with(".bitwise_rate");
    const bool kv = name.ends_with(".differing_rate");
    if ((logits && value < 1.0) || (kv && value > 0.0)) return false;
    if (name.ends_with(".tokens.uncompared") && value > 0.0) return false;
    judged = judged || logits;
  }
  return judged;
}

// What makes two models of it.
std::string model_notices(const run::Verdict& verdict) {
  std::string notices;
  const auto add = [&](bool differs, std::string_view words) {
    if (differs) notices += fmt::format("<p class=\"notice\">⚠ {}</p>\n", words);
  };
  add(verdict.different_weights, kDifferentWeights);
  add(verdict.different_config, kDifferentConfig);
  return notices;
}

std::string heading(const run::Verdict& verdict) {
  const std::string caches = cache_line(verdict);
  const std::string cache_notice =
      caches.empty() ? std::string() : fmt::format("<p class=\"notice\">{}</p>\n", text(caches));
  const std::string parallel = verdict.parallel
                                   ? fmt::format("<p class=\"notice\">{}</p>\n", kParallelReplay)
                                   : std::string();
  // What the numbers below rest on; a notice where better is to be had.
  const std::string judged =
      fmt::format("<p class=\"{}\">{}</p>\n", verdict.measures_noise ? "quiet" : "notice",
                  text(judged_line(verdict)));
  return fmt::format(
      "<header class=\"verdict\"><div class=\"badge-line\">{}<div><h2>{}</h2>"
      "<p class=\"pair\"><span>{}</span><span class=\"arrow\" aria-label=\"against\"> → "
      "</span><span>{}</span> <span class=\"quiet\">· {} · modes: {}</span></p></div></div>\n"
      "<p class=\"finding\">{}</p>\n{}{}{}{}</header>\n",
      badge(verdict.gate.passed ? Outcome::kPass : Outcome::kFail), text(verdict.model_id),
      text(verdict.reference_device), text(verdict.device), text(verdict.dtype),
      mode_list(verdict.run), text(verdict.finding_text), model_notices(verdict), cache_notice,
      parallel, judged);
}

std::string match_tile(const run::Verdict& verdict, const std::string& stretch) {
  const auto value = [&](const char* name) { return figure(verdict.figures, stretch + name); };
  return tile("Tokens match", shown_rate(value(".tokens.match_rate")),
              fmt::format("≥ {} with 95 % confidence; {} compared ({})",
                          shown_rate(value(".tokens.match_rate_lower95")),
                          shown(value(".tokens.compared")), stretch));
}

std::string mismatch_tile(const run::Verdict& verdict, const analysis::TokenSummary& tokens,
                          const std::string& stretch) {
  const bool noise = verdict.measures_noise || tokens.noise_flips > 0;
  const bool near_ties = !verdict.measures_noise || tokens.near_ties > 0;
  const auto part = [](bool shown, const std::string& words) { return shown ? words : ""; };
  return tile(
      "Mismatches",
      fmt::format("{}{}{}/{}", tokens.ties, part(noise, fmt::format("/{}", tokens.noise_flips)),
                  part(near_ties, fmt::format("/{}", tokens.near_ties)), tokens.hard_flips),
      fmt::format("ties{}{} / hard flips{} ({})", part(noise, " / noise flips"),
                  part(near_ties, " / near-ties"),
                  part(tokens.nonfinite > 0, fmt::format("; {} NaN or Inf", tokens.nonfinite)),
                  stretch));
}

std::string flips_tile(const analysis::FlipSummary& flips, const std::string& stretch) {
  if (!flips.tail) return {};
  return tile("Flips", fmt::format("{}", flips.observed),
              text(fmt::format("{} expected by noise; probability that it makes as many: {} ({})",
                               expected_text(flips), probability_text(*flips.tail), stretch)));
}

std::string kv_tile(const char* heading_text, const run::Verdict& verdict,
                    const std::string& prefix) {
  const auto error = figure(verdict.figures, prefix + ".relative_l2");
  if (!error) return tile(heading_text, "–", "no K/V to compare");
  const auto differing = figure(verdict.figures, prefix + ".differing_rate");
  if (differing && *differing == 0.0) return tile(heading_text, "0", "bitwise equal");
  return tile(heading_text, shown(error),
              fmt::format("relative L2; {} × the rounding floor",
                          shown(figure(verdict.figures, prefix + ".floor_ratio"))));
}

std::string tiles(const run::Verdict& verdict) {
  const analysis::RunSummary& run = verdict.run;
  // A row of one token has no step: all that there is to say is the prefill's.
  const bool has_mode = !run.modes.empty() && run.modes.front().steps.tokens.compared > 0;
  const std::string stretch = has_mode ? stretch_name(run.modes.front()) : "prefill";
  const analysis::StretchSummary& summary = has_mode ? run.modes.front().steps : run.prefill;
  std::string result = "<div class=\"tiles\">\n" + match_tile(verdict, stretch) +
                       mismatch_tile(verdict, summary.tokens, stretch) +
                       flips_tile(summary.flips, stretch);
  result += tile(
      "Bitwise equal", bitwise_equal(verdict.figures) ? "yes" : "no",
      fmt::format("logits: {} of tokens ({})",
                  shown_rate(figure(verdict.figures, stretch + ".logits.bitwise_rate")), stretch));
  const bool estimated = summary.logits.kl_estimate.measured > 0;
  result += tile("KL p99", shown(summary.logits.kl().p99),
                 fmt::format("nats, {} ({})", estimated ? "estimate" : "lower bound", stretch));
  result += kv_tile("K error", verdict, stretch + ".kv.key");
  result += kv_tile("V error", verdict, stretch + ".kv.value");
  if (run.amplification) {
    result += tile("Amplification", shown(run.amplification) + "×", "median KL, forced / inject");
  }
  return result + "</div>\n";
}

std::string flip_row(const run::Verdict& verdict, const analysis::HardFlip& flip,
                     format::ReplayMode mode, const FlipTexts& texts) {
  const analysis::TokenComparison& token = flip.token;
  const run::TokenText& bytes = texts.find(verdict.model_slug, flip.input, mode, token.index);
  return fmt::format(
      "<tr><td>{}</td><th scope=\"row\"><a href=\"#{}\">{}</a></th><td class=\"number\">{}</td>"
      "<td class=\"token\">{} <span class=\"quiet\">{}</span></td>"
      "<td class=\"token\">{} <span class=\"quiet\">{}</span></td>"
      "<td class=\"number\">{}</td><td>{}</td><td class=\"number\">{}</td></tr>\n",
      format::replay_mode_name(mode), text(input_anchor(verdict.model_slug, flip.input)),
      text(analysis::to_string(flip.input)), token.index,
      text(token_quote(token.recorded, bytes.recorded)), token.recorded,
      text(token_quote(token.predicted, bytes.predicted)), token.predicted, shown(token.margin),
      text(gap_text(token, verdict.flip_bounds)), shown(kl_of(token, estimates_kl(verdict.run))));
}

std::string hard_flips(const run::Verdict& verdict, const FlipTexts& texts) {
  const analysis::RunSummary& run = verdict.run;
  std::size_t listed = 0;
  std::uint64_t counted_flips = run.prefill.tokens.hard_flips;
  std::string rows;
  for (const analysis::ModeSummary& mode : run.modes) {
    counted_flips += mode.steps.tokens.hard_flips;
    for (const analysis::HardFlip& flip : mode.hard_flips) {
      if (listed++ < kShownFlips) rows += flip_row(verdict, flip, mode.mode, texts);
    }
  }
  if (rows.empty()) return counted_flips == 0 ? "<p class=\"quiet\">No hard flip.</p>\n" : "";
  std::string table =
      "<div class=\"scroll list\"><table class=\"flips\"><thead><tr><th>Mode</th><th>Input</th>"
      "<th class=\"number\">Token</th><th>Recorded</th><th>Predicted</th>"
      "<th class=\"number\">Margin</th><th>Gap</th><th class=\"number\">" +
      kl_name(estimates_kl(run)) + "</th></tr></thead><tbody>\n" + rows +
      "</tbody></table></div>\n";
  if (listed > kShownFlips) {
    table += fmt::format("<p class=\"quiet\">… and {} more.</p>\n", listed - kShownFlips);
  }
  return table;
}

std::string provenance_table(const run::Verdict& verdict) {
  const std::string numerics =
      verdict.numerics ? "<p>" + text(numerics_line(verdict)) + "</p>\n" : std::string();
  if (verdict.provenance.empty()) {
    return numerics + "<p class=\"quiet\">No difference that could explain a mismatch.</p>\n";
  }
  std::string table =
      numerics +
      "<div class=\"scroll\"><table class=\"provenance\"><thead><tr><th>What</th><th>Reference</th>"
      "<th>Under test</th><th>What it can change</th></tr></thead><tbody>\n";
  for (const analysis::ProvenanceDifference& difference : verdict.provenance) {
    table += fmt::format(
        "<tr><th scope=\"row\" title=\"{}\">{}</th><td><del>{}</del></td><td><ins>{}</ins></td>"
        "<td>{}</td></tr>\n",
        text(difference.key), text(difference.title()), text(difference.recorded),
        text(difference.live), text(difference.why));
  }
  return table + "</tbody></table></div>\n";
}

std::string gate_heading(const run::Verdict& verdict) {
  std::string result =
      fmt::format("<h3>Gate <code>{}</code> <span class=\"quiet\">{} of {} passed</span></h3>\n",
                  text(verdict.gate.gate), verdict.gate.rules.size() - failed_rules(verdict.gate),
                  counted(verdict.gate.rules.size(), "rule"));
  if (!verdict.gate_description.empty()) {
    result += "<p class=\"quiet\">" + text(verdict.gate_description) + "</p>\n";
  }
  if (!verdict.gate_chosen) {
    result += "<p class=\"quiet\">The default gate: no other was asked for with --gate.</p>\n";
  }
  return result;
}

}  // namespace

std::string verdict_section(const run::Verdict& verdict, const FlipTexts& flips) {
  return "<section class=\"card\">\n" + heading(verdict) + tiles(verdict) + gate_heading(verdict) +
         gate_table(verdict.gate.rules) + "<h3>Modes side by side</h3>\n" + modes_table(verdict) +
         "<h3>Hard flips</h3>\n" + hard_flips(verdict, flips) +
         "<h3>Provenance: what differs</h3>\n" + provenance_table(verdict) + "</section>\n";
}

}  // namespace kvtool::report::html
