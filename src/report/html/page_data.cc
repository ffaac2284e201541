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

namespace kvtool::report::html {
namespace {

using Json = nlohmann::json;
using analysis::TokenComparison;
using analysis::TokenVerdict;

// The list of inputs shows a strip of at most so many cells for each mode.
constexpr std::size_t kOverviewCells = 96;
constexpr double kWholeOverlap = 1.0;

Json number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

// e: equal logits, m: match, t: tie, n: near-tie, h: hard flip, x: NaN or Inf.
// The order is that of severity (kSeverity).
char verdict_letter(const TokenComparison& token) {
  if (token.nonfinite) return 'x';
  switch (token.verdict) {
    case TokenVerdict::kMatch: return token.logits_equal ? 'e' : 'm';
    case TokenVerdict::kTie: return 't';
    case TokenVerdict::kNoise:
    case TokenVerdict::kNearTie: return 'n';
    case TokenVerdict::kHardFlip: return 'h';
  }
  return 'x';
}
constexpr std::string_view kSeverity = "uemtnhx";

char worse(char a, char b) { return kSeverity.find(a) > kSeverity.find(b) ? a : b; }

std::string verdict_letters(const analysis::RowComparison& row) {
  std::string letters;
  for (const TokenComparison& token : row.tokens) letters += verdict_letter(token);
  letters.append(row.uncompared_steps, 'u');
  return letters;
}

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

Json mismatch(const TokenComparison& token, const std::string& predicted_bytes) {
  return {token.predicted, printable(predicted_bytes), number(token.gap),
          token.gap_is_bound ? 1 : 0};
}

Json mode_data(const run::ModeReplay& mode, std::uint64_t prompt_length) {
  const analysis::RowComparison& row = mode.comparison;
  Json mismatches = Json::object();
  Json top5 = Json::object();
  std::string kl;
  for (std::size_t i = 0; i < row.tokens.size(); ++i) {
    const TokenComparison& token = row.tokens[i];
    append_packed(kl, token.kl);
    if (token.verdict != TokenVerdict::kMatch) {
      mismatches[std::to_string(i)] =
          mismatch(token, i < mode.texts.size() ? mode.texts[i].predicted : std::string());
    }
    if (token.top5_overlap < kWholeOverlap) {
      top5[std::to_string(i)] = std::round(token.top5_overlap * 100.0) / 100.0;
    }
  }
  Json result = {{"mode", format::replay_mode_name(mode.mode)},
                 {"letters", verdict_letters(row)},
                 {"kl", kl},
                 {"mismatches", mismatches},
                 {"own_kv", mode.own_step_kv},
                 {"bitwise_equal", row.bitwise_equal()},
                 {"steps_per_second",
                  number(run::tokens_per_second(mode.timing.steps, mode.timing.decode_seconds))},
                 {"steps", blocks_data(row.step_kv, prompt_length, row.step_departure())}};
  if (!top5.empty()) result["top5"] = top5;
  if (!mode.own_text.empty()) result["own_text"] = printable(mode.own_text);
  if (row.first_bit_difference) result["first_bit_difference"] = *row.first_bit_difference;
  return result;
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
    result["modes"].push_back(mode_data(mode, prompt_length));
  }
  // The prompt is processed alike in every mode; the first stands for all.
  const analysis::RowComparison& first = replay.modes.front().comparison;
  result["prefill"] = blocks_data(first.prefill_kv, 0, first.prefill_departure());
}

double worst_kl(const run::Replay& replay) {
  double worst = std::nan("");
  for (const run::ModeReplay& mode : replay.modes) {
    for (const TokenComparison& token : mode.comparison.tokens) {
      if (!(worst >= token.kl)) worst = std::isnan(token.kl) ? worst : token.kl;
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
  std::array<std::uint64_t, 4> counts{};
  bool bitwise = true;
  for (const run::ModeReplay& mode : replay.modes) {
    const analysis::RowComparison& row = mode.comparison;
    strips.push_back(condensed(verdict_letters(row)));
    const auto index = row.first_divergence();
    first.push_back(index ? Json(*index) : Json(nullptr));
    for (const TokenComparison& token : row.tokens) {
      const std::size_t slot = std::string_view("tnhx").find(verdict_letter(token));
      if (slot != std::string_view::npos) ++counts[slot];
    }
    bitwise = bitwise && row.bitwise_equal();
  }
  const analysis::RowComparison& row = replay.modes.front().comparison;
  return {{"strips", strips},
          {"first", first},
          {"counts", counts},
          {"bitwise", bitwise},
          {"kl", number(worst_kl(replay))},
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
          {"near_tie_ulps", verdict.flip_bounds.near_tie_ulps},
          {"stretches", stretches},
          {"divergences", divergences}};
}

// An input belongs to the verdict of its model, reference device and caches.
Json verdict_index(const run::Summary& summary, const InputEntry& input) {
  for (std::size_t i = 0; i < summary.verdicts.size(); ++i) {
    const run::Verdict& verdict = summary.verdicts[i];
    if (verdict.model_slug == input.model_slug &&
        verdict.reference_device == input.recorded_device &&
        verdict.reference_cache == input.reference_cache && verdict.cache == input.cache) {
      return i;
    }
  }
  return nullptr;
}

}  // namespace

std::string input_anchor(const std::string& model_slug, const analysis::InputName& input) {
  return printable(model_slug) + "_" + analysis::to_string(input);
}

InputEntry input_entry(const run::InputResult& input) {
  InputEntry entry;
  entry.model_slug = input.model_slug;
  entry.line = Json::object();
  if (input.replay && !input.replay->modes.empty()) {
    entry.recorded_device = input.replay->recorded_device;
    entry.reference_cache = input.replay->reference_cache;
    entry.cache = input.replay->cache;
    entry.line = replay_line(*input.replay);
  }
  entry.line["anchor"] = input_anchor(input.model_slug, input.name());
  entry.line["name"] = analysis::to_string(input.name());
  entry.line["model"] = printable(input.model_slug);
  return entry;
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

Json overview_data(const run::Summary& summary, std::span<const InputEntry> inputs) {
  Json verdicts = Json::array();
  for (const run::Verdict& verdict : summary.verdicts) verdicts.push_back(verdict_data(verdict));
  Json lines = Json::array();
  for (const InputEntry& input : inputs) {
    Json line = input.line;
    line["verdict"] = verdict_index(summary, input);
    lines.push_back(std::move(line));
  }
  return {{"verdicts", verdicts}, {"inputs", lines}};
}

}  // namespace kvtool::report::html
