// One input on the console: prompt, output with its mismatches in place, and
// what each replay mode found.
#include <cmath>

#include "console/console_page.h"
#include "mismatches.h"
#include "wording.h"

namespace kvtool::report {
namespace {

constexpr std::size_t kPromptCharacters = 400;
constexpr std::size_t kOwnTextCharacters = 200;
// What a mode found stands in one column behind its name.
constexpr std::size_t kModeColumn = 8;

std::string heading(const run::InputResult& input) {
  if (input.rows <= 1) return fmt::format("Input {}", input.input_index);
  return fmt::format("Input {} (row {} of a batch of {})", input.input_index, input.row,
                     input.rows);
}

std::string relative_l2_of(const analysis::KvProfile& profile) {
  std::string text;
  for (const analysis::KvKind kind : analysis::kKvKinds) {
    const analysis::KvError error = profile.total(kind);
    text +=
        fmt::format("{}{} {:.1e}", text.empty() ? "" : " ", kv_letter(kind), error.relative_l2());
  }
  return text;
}

// `lead` goes before the figures of K and V.
std::string describe_kv(const analysis::KvProfile& profile, const std::string& lead) {
  if (!profile.measured()) return "K/V not compared";
  const analysis::KvError total = profile.total();
  std::string text =
      total.bitwise_equal() ? std::string("K/V bitwise equal") : lead + relative_l2_of(profile);
  if (total.nonfinite > 0) text += fmt::format(", {} NaN or Inf in K/V", total.nonfinite);
  return text;
}

// Without its text (a diff has no token table) a token is its id.
std::string in_place(std::int32_t token, const std::string& bytes) {
  if (token < 0) return "no finite logit";
  return bytes.empty() ? fmt::format("#{}", token) : one_line(bytes);
}

// Shows an input that was replayed.
class ReplayPart {
 public:
  ReplayPart(ConsolePage& page, const run::InputResult& input)
      : page_(page), input_(input), replay_(*input.replay), first_(replay_.modes.front()) {}

  void show() {
    show_output();
    show_prefill();
    show_steps();
    for (const run::ModeReplay& mode : replay_.modes) show_mode(mode);
    if (!replay_.truncation.empty()) {
      page_.wrapped_line("Truncated recording: " + one_line(replay_.truncation), kModeColumn);
    }
  }

 private:
  void show_output() {
    const std::string of_mode = replay_.modes.size() > 1
                                    ? fmt::format(" of {}", format::replay_mode_name(first_.mode))
                                    : std::string();
    page_.line("Output: {} tokens, mismatches{} as [predicted≠recorded]",
               first_.comparison.tokens.size(), of_mode);
    const std::string text = marked_text();
    if (!text.empty()) page_.block(text);
  }

  // Bytes of matching tokens are joined before they are made printable, since
  // one character may be spread over several tokens.
  [[nodiscard]] std::string marked_text() const {
    std::string result;
    std::string pending;
    for (std::size_t i = 0; i < first_.texts.size(); ++i) {
      const run::TokenText& text = first_.texts[i];
      const analysis::TokenComparison& token = first_.comparison.tokens.at(i);
      if (token.verdict == analysis::TokenVerdict::kMatch) {
        pending += text.recorded;
        continue;
      }
      result += printable(pending);
      pending.clear();
      result += page_.painted(Paint::kBad,
                              fmt::format("[{}≠{}]", in_place(token.predicted, text.predicted),
                                          in_place(token.recorded, text.recorded)));
    }
    return result + printable(pending);
  }

  void show_prefill() {
    const analysis::RowComparison& row = first_.comparison;
    if (!replay_.reference_has_prefill_kv) {
      page_.line("The recording holds no K/V: all ran on this device's own K/V.");
    }
    std::string text = "Prefill: token 0 ";
    if (row.tokens.empty()) {
      text += "not compared";
    } else if (row.tokens.front().verdict == analysis::TokenVerdict::kMatch) {
      text += "matches";
    } else {
      text += fmt::format("differs ({})", class_text(row.tokens.front().verdict));
    }
    page_.wrapped_line(text + ", " + describe_kv(row.prefill_kv, "relative L2 "), 9);
    if (const auto departure = row.prefill_departure()) {
      show_departure(describe_departure(*departure, 0, Stretch::kPrefill));
    }
  }

  void show_departure(const std::string& sentence) {
    page_.wrapped_line(std::string(kModeColumn, ' ') + page_.painted(Paint::kBad, sentence),
                       kModeColumn);
  }

  // The line that scripts look for.
  void show_steps() {
    const TokenCounts counts = count_steps(first_.comparison);
    const bool all = counts.matches == counts.compared;
    page_.line("{}",
               page_.painted(all ? Paint::kGood : Paint::kBad,
                             fmt::format("Steps: {}, Match: {}/{} ({}), TPS: {}", counts.compared,
                                         counts.matches, counts.compared,
                                         percentage(counts.matches, counts.compared),
                                         rate(run::tokens_per_second(
                                             counts.compared, first_.timing.decode_seconds)))));
  }

  void show_mode(const run::ModeReplay& mode) {
    page_.wrapped_line(mode_text(mode), kModeColumn);
    const std::string margin(kModeColumn, ' ');
    if (mode.own_step_kv && mode.mode == format::ReplayMode::kInject) {
      page_.wrapped_line(margin + "on this device's own K/V: the recording holds none of its steps",
                         kModeColumn);
    }
    show_first_divergence(mode);
    if (const auto departure = mode.comparison.step_departure()) {
      show_departure(describe_departure(*departure, input_.prompt_length, Stretch::kSteps));
    }
    if (!mode.own_text.empty()) {
      page_.wrapped_line(fmt::format("{}then wrote: \"{}\"", margin,
                                     page_.options().verbose
                                         ? one_line(mode.own_text)
                                         : shortened(one_line(mode.own_text), kOwnTextCharacters)),
                         kModeColumn);
    }
  }

  [[nodiscard]] static std::string mode_text(const run::ModeReplay& mode) {
    const analysis::RowComparison& row = mode.comparison;
    const TokenCounts counts = count_steps(row);
    std::string text = fmt::format(
        "{:<8}{}/{} steps match ({})", fmt::format("{}:", format::replay_mode_name(mode.mode)),
        counts.matches, counts.compared, percentage(counts.matches, counts.compared));
    const std::string mismatches = mismatch_counts(counts);
    if (!mismatches.empty()) text += ", " + mismatches;
    if (row.bitwise_equal()) {
      return text + (row.step_kv.measured() ? ", logits and K/V bitwise equal"
                                            : ", logits bitwise equal, K/V not compared");
    }
    text += ", " + describe_kv(row.step_kv, "");
    if (row.logits_equal()) {
      text += ", logits bitwise equal";
    } else if (const auto kl = step_kl_p99(row, estimates_kl(row))) {
      text += fmt::format(", {} p99 {:.1e}", kl_name(estimates_kl(row)), *kl);
    }
    if (row.uncompared_steps > 0) {
      text += fmt::format(", {} after the divergence not compared",
                          counted(row.uncompared_steps, "step"));
    }
    return text;
  }

  void show_first_divergence(const run::ModeReplay& mode) {
    const auto index = mode.comparison.first_divergence();
    if (!index) return;
    const analysis::TokenComparison& token = mode.comparison.tokens.at(*index);
    const run::TokenText& text = mode.texts.at(*index);
    const std::string margin(kModeColumn, ' ');
    page_.line("{}first divergence: {}, {}", margin, place_of(*index), class_text(token.verdict));
    page_.wrapped_line(fmt::format("{}  predicted {} (id {}), recorded {} (id {})", margin,
                                   token_quote(token.predicted, text.predicted), token.predicted,
                                   token_quote(token.recorded, text.recorded), token.recorded),
                       kModeColumn + 2);
    page_.wrapped_line(fmt::format("{}  {}", margin, describe_gap(token, mode.comparison.bounds)),
                       kModeColumn + 2);
  }

  ConsolePage& page_;
  const run::InputResult& input_;
  const run::Replay& replay_;
  const run::ModeReplay& first_;
};

void show_sources(ConsolePage& page, const run::Replay& replay) {
  page.line("From:   {}", one_line(replay.recording));
  page.wrapped_line(fmt::format("        recorded on {}, {}{}", one_line(replay.recorded_device),
                                replay.save_mode, replay.truncation.empty() ? "" : ", truncated"),
                    8);
  if (!replay.live.empty()) page.line("Live:   {}", one_line(replay.live));
  if (replay.different_weights) page.wrapped_line(std::string(kDifferentWeights), 8);
  if (replay.different_config) page.wrapped_line(std::string(kDifferentConfig), 8);
  if (replay.parallel) page.wrapped_line(std::string(kParallelReplay), 8);
}

void show_generation(ConsolePage& page, const run::InputResult& input) {
  const run::Generation& generation = *input.generation;
  page.line("Output: {} tokens, stopped by {}", generation.tokens.size(), generation.stop_reason);
  page.block(printable(generation.text));
  page.line("Steps: {}, TPS: {}", input.timing.steps,
            rate(run::tokens_per_second(input.timing.steps, input.timing.decode_seconds)));
}

}  // namespace

void show_input(ConsolePage& page, const run::InputResult& input) {
  page.line("");
  page.line("{}", page.painted(Paint::kBold, heading(input)));
  if (input.replay) show_sources(page, *input.replay);
  page.line("Prompt: {} tokens", input.prompt_length);
  const std::string prompt = printable(input.prompt_text);
  page.block(page.options().verbose ? prompt : shortened(prompt, kPromptCharacters));
  if (input.generation) show_generation(page, input);
  if (input.replay && !input.replay->modes.empty()) ReplayPart(page, input).show();
  if (input.saved) {
    page.line("Saved:  {} ({}, {})", one_line(input.saved->path), megabytes(input.saved->bytes),
              input.saved->save_mode);
  }
}

}  // namespace kvtool::report
