// One input in the JSON report, token by token in every mode.
#include "json/json_values.h"
#include "mismatches.h"
#include "wording.h"

namespace kvtool::report {
namespace {

Json tokens_object(const analysis::RowComparison& row) {
  Json recorded = Json::array();
  Json predicted = Json::array();
  Json classes = Json::array();
  Json margin = Json::array();
  Json kl = Json::array();
  Json kl_estimate = Json::array();
  Json noise = Json::array();
  Json logits_equal = Json::array();
  for (const analysis::TokenComparison& token : row.tokens) {
    recorded.push_back(json_token(token.recorded));
    predicted.push_back(json_token(token.predicted));
    classes.push_back(analysis::verdict_name(token.verdict));
    margin.push_back(json_rounded(token.margin));
    kl.push_back(json_rounded(token.kl));
    kl_estimate.push_back(json_rounded(token.kl_estimate.value));
    noise.push_back(json_rounded(token.noise.top));
    logits_equal.push_back(token.logits_equal);
  }
  return {{"recorded", std::move(recorded)},
          {"predicted", std::move(predicted)},
          {"live", json_token_list(row.live_tokens)},
          {"class", std::move(classes)},
          {"margin", std::move(margin)},
          {"kl", std::move(kl)},
          {"kl_estimate", std::move(kl_estimate)},
          {"noise", std::move(noise)},
          {"logits_equal", std::move(logits_equal)}};
}

Json mismatch_list(const run::ModeReplay& mode) {
  Json list = Json::array();
  for (std::size_t i = 0; i < mode.comparison.tokens.size(); ++i) {
    const analysis::TokenComparison& token = mode.comparison.tokens[i];
    if (token.verdict == analysis::TokenVerdict::kMatch) continue;
    Json mismatch = json_comparison(token, mode.comparison.bounds);
    mismatch["recorded_text"] = json_text(mode.texts.at(i).recorded);
    mismatch["predicted_text"] = json_text(mode.texts.at(i).predicted);
    list.push_back(std::move(mismatch));
  }
  return list;
}

Json mode_of_input(const run::ModeReplay& mode, std::uint64_t prompt_length) {
  const analysis::RowComparison& row = mode.comparison;
  const TokenCounts steps = count_steps(row);
  const TokenCounts all = count_tokens(row);
  const bool token0_matches =
      !row.tokens.empty() && row.tokens.front().verdict == analysis::TokenVerdict::kMatch;
  std::string recorded_text;
  for (const run::TokenText& text : mode.texts) recorded_text += text.recorded;
  return {{"mode", format::replay_mode_name(mode.mode)},
          {"own_step_kv", mode.own_step_kv},
          {"prefill_seconds", json_number(mode.timing.prefill_seconds)},
          {"decode_seconds", json_number(mode.timing.decode_seconds)},
          {"tokens_per_second",
           json_number(run::tokens_per_second(mode.timing.steps, mode.timing.decode_seconds))},
          {"prefill_token_matches", token0_matches},
          {"steps", steps.compared},
          {"uncompared_steps", row.uncompared_steps},
          {"matches", steps.matches},
          {"ties", all.ties},
          {"noise_flips", all.noise_flips},
          {"near_ties", all.near_ties},
          {"hard_flips", all.hard_flips},
          {"measures_noise", measures_noise(row)},
          {"kl_p99", json_number(step_kl_p99(row, false))},
          {"kl_estimate_p99", json_number(step_kl_p99(row, true))},
          {"first_divergence", json_known(row.first_divergence())},
          {"first_bit_difference", json_known(row.first_bit_difference)},
          {"logits_equal", row.logits_equal()},
          {"bitwise_equal", row.bitwise_equal()},
          {"nonfinite", row.nonfinite()},
          {"recorded_text", json_text(recorded_text)},
          {"own_text", json_known(mode.own_text)},
          {"tokens", tokens_object(row)},
          {"mismatches", mismatch_list(mode)},
          {"prefill_kv", json_kv(row.prefill_kv, {.departure = row.prefill_departure()})},
          {"step_kv", json_kv(row.step_kv, {.first_position = prompt_length,
                                            .departure = row.step_departure()})}};
}

Json replay_object(const run::Replay& replay, const run::InputResult& input) {
  Json modes = Json::array();
  for (const run::ModeReplay& mode : replay.modes) {
    modes.push_back(mode_of_input(mode, input.prompt_length));
  }
  return {{"recording", json_text(replay.recording)},
          {"live", json_known(replay.live)},
          {"recorded_device", json_known(replay.recorded_device)},
          {"reference_cache", json_known(replay.reference_cache)},
          {"cache", json_known(replay.cache)},
          {"save_mode", json_known(replay.save_mode)},
          {"truncation", json_known(replay.truncation)},
          {"reference_has_prefill_kv", replay.reference_has_prefill_kv},
          {"different_weights", replay.different_weights},
          {"different_config", replay.different_config},
          {"parallel", replay.parallel},
          {"failed", input_failed(input)},
          {"provenance", json_provenance(replay.provenance)},
          {"numerics", json_agreement(replay.numerics)},
          {"modes", std::move(modes)}};
}

}  // namespace

Json json_input(const run::InputResult& input) {
  Json object = {
      {"model", json_text(input.model_slug)},
      {"name", to_string(input.name())},
      {"batch_size", input.batch_size},
      {"rows", input.rows},
      {"row", input.row},
      {"input", input.input_index},
      {"prompt", {{"text", json_text(input.prompt_text)}, {"tokens", input.prompt_length}}},
      {"steps", input.timing.steps},
      {"prefill_seconds", json_number(input.timing.prefill_seconds)},
      {"decode_seconds", json_number(input.timing.decode_seconds)},
      {"tokens_per_second",
       json_number(run::tokens_per_second(input.timing.steps, input.timing.decode_seconds))}};
  if (input.timing.attention_seconds) {
    object["attention_seconds"] = json_number(*input.timing.attention_seconds);
  }
  if (input.generation) {
    object["generated"] = {{"text", json_text(input.generation->text)},
                           {"tokens", json_token_list(input.generation->tokens)},
                           {"stop_reason", json_text(input.generation->stop_reason)}};
  }
  if (input.replay) object["replay"] = replay_object(*input.replay, input);
  if (input.saved) {
    object["saved"] = {{"path", json_text(input.saved->path)},
                       {"bytes", input.saved->bytes},
                       {"save_mode", json_text(input.saved->save_mode)}};
  }
  return object;
}

}  // namespace kvtool::report
