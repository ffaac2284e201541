#include "html/page_data.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <string_view>

#include "html/packed_floats.h"
#include "html/profile_data.h"
#include "html/token_texts.h"
#include "kvtool/base/text.h"
#include "mismatches.h"

namespace kvtool::report::html {
namespace {

using Json = nlohmann::json;
using analysis::TokenComparison;
using analysis::TokenVerdict;

// The list of inputs shows a strip of at most so many cells for each mode.
constexpr std::size_t kOverviewCells = 96;
constexpr double kWholeOverlap = 1.0;

Json number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

// e: equal logits, m: match, t: tie, o: noise, n: near-tie, h: hard flip, x: NaN or Inf.
// The order is that of severity (kSeverity).
char verdict_letter(const TokenComparison& token) {
  if (token.nonfinite) return 'x';
  switch (token.verdict) {
    case TokenVerdict::kMatch: return token.logits_equal ? 'e' : 'm';
    case TokenVerdict::kTie: return 't';
    case TokenVerdict::kNoise: return 'o';
    case TokenVerdict::kNearTie: return 'n';
    case TokenVerdict::kHardFlip: return 'h';
  }
  return 'x';
}
constexpr std::string_view kSeverity = "uemtonhx";

char worse(char a, char b) { return kSeverity.find(a) > kSeverity.find(b) ? a : b; }

std::string verdict_letters(const analysis::RowComparison& row) {
  std::string letters;
  for (const TokenComparison& token : row.tokens) letters += verdict_letter(token);
  letters.append(row.uncompared_steps, 'u');
  return letters;
}

// Those that fail or need a tolerance, in the order of the list's columns.
constexpr std::string_view kCountedLetters = "tonhx";

// At most kOverviewCells letters, each the worst of those that it stands for.
std::string condensed(const std::string& letters) {
  if (letters.size() <= kOverviewCells) return letters;
  std::string cells(kOverviewCells, 'u');
  for (std::size_t i = 0; i < letters.size(); ++i) {
    char& cell = cells[i * kOverviewCells / letters.size()];
    cell = worse(cell, letters[i]);
  }
  return cells;
}

const run::ModeReplay& longest_mode(const run::Replay& replay) {
  return *std::max_element(replay.modes.begin(), replay.modes.end(),
                           [](const run::ModeReplay& a, const run::ModeReplay& b) {
                             return a.comparison.tokens.size() < b.comparison.tokens.size();
                           });
}

// What every mode shares: the reference's tokens and how sure it was of them.
Json reference_tokens(const run::ModeReplay& mode) {
  Json ids = Json::array();
  std::string margins;
  std::string ulps;
  for (const TokenComparison& token : mode.comparison.tokens) {
    ids.push_back(token.recorded);
    append_packed(margins, token.margin);
    append_packed(ulps, token.ulp);
  }
  return {
      {"ids", ids}, {"texts", recorded_texts(mode.texts)}, {"margins", margins}, {"ulps", ulps}};
}

Json mismatch(const TokenComparison& token, const std::string& predicted_bytes,
              const analysis::FlipBounds& bounds) {
  return {token.predicted, printable(predicted_bytes), gap_text(token, bounds)};
}

// For the charts, whether estimated or a lower bound.
Json kl_data(const analysis::RowComparison& row, bool estimated) {
  std::string values;
  for (const TokenComparison& token : row.tokens) append_packed(values, kl_of(token, estimated));
  if (!estimated) return {{"values", values}};
  std::string errors;
  Json unreliable = Json::array();
  for (std::size_t i = 0; i < row.tokens.size(); ++i) {
    const analysis::KlEstimate& estimate = row.tokens[i].kl_estimate;
    append_packed(errors, estimate.standard_error);
    if (!std::isnan(estimate.value) && !estimate.reliable) unreliable.push_back(i);
  }
  return {{"values", values}, {"errors", errors}, {"unreliable", unreliable}};
}

// Of each token, the noise and the gap that it explains.
Json noise_data(const analysis::RowComparison& row) {
  std::string noises;
  std::string bounds;
  for (const TokenComparison& token : row.tokens) {
    append_packed(noises, token.noise.top);
    append_packed(bounds, token.noise_bound);
  }
  return {{"noises", noises}, {"bounds", bounds}, {"z", row.bounds.noise_z}};
}

Json mode_data(const run::ModeReplay& mode, std::uint64_t prompt_length, bool estimated) {
  const analysis::RowComparison& row = mode.comparison;
  Json mismatches = Json::object();
  Json top5 = Json::object();
  for (std::size_t i = 0; i < row.tokens.size(); ++i) {
    const TokenComparison& token = row.tokens[i];
    if (token.verdict != TokenVerdict::kMatch) {
      mismatches[std::to_string(i)] = mismatch(
          token, i < mode.texts.size() ? mode.texts[i].predicted : std::string(), row.bounds);
    }
    if (token.top5_overlap < kWholeOverlap) {
      top5[std::to_string(i)] = std::round(token.top5_overlap * 100.0) / 100.0;
    }
  }
  Json result = {{"mode", format::replay_mode_name(mode.mode)},
                 {"letters", verdict_letters(row)},
                 {"kl", kl_data(row, estimated)},
                 {"mismatches", mismatches},
                 {"own_kv", mode.own_step_kv},
                 {"bitwise_equal", row.bitwise_equal()},
                 {"steps_per_second",
                  number(run::tokens_per_second(mode.timing.steps, mode.timing.decode_seconds))},
                 {"steps", blocks_data(row.step_kv, prompt_length, row.step_departure())}};
  if (measures_noise(row)) result["noise"] = noise_data(row);
  if (!top5.empty()) result["top5"] = top5;
  if (!mode.own_text.empty()) result["own_text"] = printable(mode.own_text);
  if (row.first_bit_difference) result["first_bit_difference"] = *row.first_bit_difference;
  return result;
}

bool any_estimate(const run::Replay& replay) {
  return std::any_of(replay.modes.begin(), replay.modes.end(),
                     [](const run::ModeReplay& mode) { return estimates_kl(mode.comparison); });
}

void add_fact(Json& facts, std::string_view name, std::string_view value) {
  if (!value.empty()) facts.push_back({name, printable(value, Newlines::kEscape)});
}

Json facts_of(const run::InputResult& input) {
  Json facts = Json::array();
  if (input.rows > 1) {
    add_fact(facts, "batch row", std::to_string(input.row) + " of " + std::to_string(input.rows));
  }
  if (const run::Replay* replay = input.replay ? &*input.replay : nullptr) {
    add_fact(facts, "reference", replay->recording);
    add_fact(facts, "recorded on", replay->recorded_device);
    add_fact(facts, "compared with", replay->live);
    add_fact(facts, "save mode", replay->save_mode);
    add_fact(facts, "truncated", replay->truncation);
  }
  if (input.generation) add_fact(facts, "stopped by", input.generation->stop_reason);
  if (input.saved) add_fact(facts, "saved as", input.saved->path);
  return facts;
}

void add_replay(Json& result, const run::Replay& replay, std::uint64_t prompt_length) {
  result["has_prompt_kv"] = replay.reference_has_prefill_kv;
  result["modes"] = Json::array();
  if (replay.modes.empty()) return;
  result["tokens"] = reference_tokens(longest_mode(replay));
  for (const run::ModeReplay& mode : replay.modes) {
    result["modes"].push_back(mode_data(mode, prompt_length, any_estimate(replay)));
  }
  // The prompt is processed alike in every mode; the first stands for all.
  const analysis::RowComparison& first = replay.modes.front().comparison;
  result["near_tie_ulps"] = first.bounds.near_tie_ulps;
  result["prefill"] = blocks_data(first.prefill_kv, 0, first.prefill_departure());
}

double worst_kl(const run::Replay& replay) {
  const bool estimated = any_estimate(replay);
  double worst = std::nan("");
  for (const run::ModeReplay& mode : replay.modes) {
    for (const TokenComparison& token : mode.comparison.tokens) {
      const double kl = kl_of(token, estimated);
      if (!(worst >= kl)) worst = std::isnan(kl) ? worst : kl;
    }
  }
  return worst;
}

double kv_error(const analysis::RowComparison& row, analysis::KvKind kind) {
  const analysis::KvProfile& profile = row.step_kv.measured() ? row.step_kv : row.prefill_kv;
  return profile.measured() ? profile.total(kind).relative_l2() : std::nan("");
}

Json replay_line(const run::Replay& replay) {
  Json strips = Json::array();
  Json first = Json::array();
  std::array<std::uint64_t, kCountedLetters.size()> counts{};
  bool bitwise = true;
  bool by_noise = false;
  for (const run::ModeReplay& mode : replay.modes) {
    const analysis::RowComparison& row = mode.comparison;
    strips.push_back(condensed(verdict_letters(row)));
    const auto index = row.first_divergence();
    first.push_back(index ? Json(*index) : Json(nullptr));
    for (const TokenComparison& token : row.tokens) {
      const std::size_t slot = kCountedLetters.find(verdict_letter(token));
      if (slot != std::string_view::npos) ++counts[slot];
    }
    bitwise = bitwise && row.bitwise_equal();
    by_noise = by_noise || measures_noise(row);
  }
  const analysis::RowComparison& row = replay.modes.front().comparison;
  return {{"strips", strips},
          {"first", first},
          {"counts", counts},
          {"bitwise", bitwise},
          {"by_noise", by_noise},
          {"kl", number(worst_kl(replay))},
          {"kl_estimated", any_estimate(replay)},
          {"key", number(kv_error(row, analysis::KvKind::kKey))},
          {"value", number(kv_error(row, analysis::KvKind::kValue))},
          {"tokens", longest_mode(replay).comparison.tokens.size()}};
}

Json divergence_data(const analysis::ModeSummary& mode) {
  Json at = Json::array();
  Json names = Json::array();
  std::uint64_t longest = 0;
  for (const analysis::FirstDivergence& divergence : mode.first_divergences) {
    at.push_back(divergence.token ? Json(divergence.token->index) : Json(nullptr));
    names.push_back(analysis::to_string(divergence.input));
    longest = std::max(longest, divergence.compared);
  }
  return {{"mode", format::replay_mode_name(mode.mode)},
          {"at", at},
          {"inputs", names},
          {"tokens", longest}};
}

Json stretch_data(std::string_view stretch, const analysis::KvSummary& kv) {
  return {{"stretch", stretch},
          {"blocks", blocks_data(kv.profile, 0, kv.departure)},
          {"heads", heads_data(kv.profile)}};
}

Json verdict_data(const run::Verdict& verdict) {
  Json stretches = Json::array({stretch_data("prefill", verdict.run.prefill.kv)});
  Json divergences = Json::array();
  for (const analysis::ModeSummary& mode : verdict.run.modes) {
    stretches.push_back(stretch_data(format::replay_mode_name(mode.mode), mode.steps.kv));
    divergences.push_back(divergence_data(mode));
  }
  return {{"model", printable(verdict.model_id)},
          {"reference", printable(verdict.reference_device)},
          {"device", printable(verdict.device)},
          {"stretches", stretches},
          {"divergences", divergences}};
}

}  // namespace

std::string input_anchor(const std::string& model_slug, const analysis::InputName& input) {
  return printable(model_slug) + "_" + analysis::to_string(input);
}

Json input_line(const run::InputResult& input) {
  Json line = Json::object();
  if (input.replay && !input.replay->modes.empty()) line = replay_line(*input.replay);
  line["anchor"] = input_anchor(input.model_slug, input.name());
  line["name"] = analysis::to_string(input.name());
  line["model"] = printable(input.model_slug);
  return line;
}

Json input_data(const run::InputResult& input) {
  Json result = {{"name", analysis::to_string(input.name())},
                 {"prompt", printable(input.prompt_text)},
                 {"prompt_length", input.prompt_length},
                 {"facts", facts_of(input)}};
  if (input.replay) add_replay(result, *input.replay, input.prompt_length);
  if (input.generation) result["generated"] = printable(input.generation->text);
  return result;
}

Json overview_data(const run::Summary& summary, const Json& lines) {
  Json verdicts = Json::array();
  for (const run::Verdict& verdict : summary.verdicts) verdicts.push_back(verdict_data(verdict));
  return {{"verdicts", verdicts}, {"inputs", lines}};
}

}  // namespace kvtool::report::html
