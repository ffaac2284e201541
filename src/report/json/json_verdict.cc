// Verdicts and the summary in the JSON report.
#include "json/json_values.h"
#include "mismatches.h"

namespace kvtool::report {
namespace {

Json token_summary(const analysis::TokenSummary& tokens) {
  return {{"inputs", tokens.inputs},
          {"inputs_matching", tokens.inputs_matching},
          {"compared", tokens.compared},
          {"uncompared", tokens.uncompared},
          {"matches", tokens.matches},
          {"ties", tokens.ties},
          {"noise_flips", tokens.noise_flips},
          {"near_ties", tokens.near_ties},
          {"hard_flips", tokens.hard_flips},
          {"nonfinite", tokens.nonfinite},
          {"match_rate", json_number(tokens.match_rate())},
          {"match_rate_lower95", json_number(tokens.match_rate_lower95())},
          {"tie_rate", json_number(tokens.tie_rate())},
          {"explained_rate_lower95", json_number(tokens.explained_rate_lower95())}};
}

Json worst_place(const std::optional<analysis::Place>& place) {
  if (!place) return nullptr;
  Json object = json_place(place->input);
  object["index"] = place->token_index;
  return object;
}

Json kl_summary(const analysis::KlSummary& kl) {
  return {{"measured", kl.measured},          {"mean", json_number(kl.mean)},
          {"median", json_number(kl.median)}, {"p99", json_number(kl.p99)},
          {"max", json_number(kl.max)},       {"worst", worst_place(kl.worst)}};
}

Json estimated_kl(const analysis::LogitSummary& logits) {
  Json object = kl_summary(logits.kl_estimate);
  object["standard_error"] = json_number(logits.kl_standard_error);
  object["unreliable"] = logits.kl_unreliable;
  return object;
}

Json logit_summary(const analysis::LogitSummary& logits) {
  return {{"compared", logits.compared},
          {"bitwise_equal", logits.bitwise_equal},
          {"top1_agreement", json_number(logits.top1_agreement)},
          {"top5_agreement", json_number(logits.top5_agreement)},
          {"top5_accuracy", json_number(logits.top5_accuracy)},
          {"top100_measured", logits.top100_measured},
          {"top100_agreement", json_number(logits.top100_agreement)},
          {"delta_p_measured", logits.delta_p_measured},
          {"rms_delta_p", json_number(logits.rms_delta_p)},
          {"noise_measured", logits.noise_measured},
          {"noise", json_number(logits.noise)},
          {"relative_noise", json_number(logits.relative_noise)},
          {"kl", kl_summary(logits.kl_bound)},
          {"kl_estimate", estimated_kl(logits)}};
}

Json flip_summary(const analysis::FlipSummary& flips) {
  return {{"measured", flips.measured},
          {"observed", flips.observed},
          {"expected", json_number(flips.expected)},
          {"deviation", json_number(flips.deviation)},
          {"p", json_number(flips.tail)}};
}

Json kv_summary(const analysis::KvSummary& kv) {
  Json object = json_kv(
      kv.profile,
      {.pooled = true, .first_position = kv.departure_first_position, .departure = kv.departure});
  if (!object.is_null() && kv.departure)
    object["departure"]["input"] = to_string(kv.departure_input);
  return object;
}

Json stretch_object(const analysis::StretchSummary& stretch) {
  return {
      {"tokens", token_summary(stretch.tokens)},
      {"flips", {{"any", flip_summary(stretch.flips)}, {"hard", flip_summary(stretch.hard_flips)}}},
      {"logits", logit_summary(stretch.logits)},
      {"kv", kv_summary(stretch.kv)}};
}

Json divergence_list(const analysis::ModeSummary& mode, const analysis::FlipBounds& bounds) {
  Json list = Json::array();
  for (const analysis::FirstDivergence& divergence : mode.first_divergences) {
    Json object = json_place(divergence.input);
    object["compared"] = divergence.compared;
    object["token"] = divergence.token ? json_comparison(*divergence.token, bounds) : Json(nullptr);
    list.push_back(std::move(object));
  }
  return list;
}

Json flip_list(const run::Verdict& verdict, const analysis::ModeSummary& mode,
               const FlipTexts& texts) {
  Json list = Json::array();
  for (const analysis::HardFlip& flip : mode.hard_flips) {
    const run::TokenText& text =
        texts.find(verdict.model_slug, flip.input, mode.mode, flip.token.index);
    Json object = json_place(flip.input);
    object.update(json_comparison(flip.token, verdict.flip_bounds));
    object["recorded_text"] = json_text(text.recorded);
    object["predicted_text"] = json_text(text.predicted);
    list.push_back(std::move(object));
  }
  return list;
}

Json mode_of_verdict(const run::Verdict& verdict, const analysis::ModeSummary& mode,
                     const FlipTexts& texts) {
  Json object = {{"mode", format::replay_mode_name(mode.mode)}};
  object.update(stretch_object(mode.steps));
  object["agreed_tokens"] = {{"min", json_number(mode.agreed_tokens_min)},
                             {"median", json_number(mode.agreed_tokens_median)},
                             {"fraction", json_number(mode.agreed_fraction)}};
  object["first_divergences"] = divergence_list(mode, verdict.flip_bounds);
  object["hard_flip_count"] = count_hard_flips(mode);
  object["hard_flips"] = flip_list(verdict, mode, texts);
  return object;
}

}  // namespace

Json json_verdict(const run::Verdict& verdict, const FlipTexts& texts) {
  Json modes = Json::array();
  for (const analysis::ModeSummary& mode : verdict.run.modes) {
    modes.push_back(mode_of_verdict(verdict, mode, texts));
  }
  return {{"model",
           {{"slug", json_text(verdict.model_slug)},
            {"id", json_known(verdict.model_id)},
            {"dtype", json_known(verdict.dtype)}}},
          {"reference_device", json_known(verdict.reference_device)},
          {"device", json_known(verdict.device)},
          {"reference_cache", json_known(verdict.reference_cache)},
          {"cache", json_known(verdict.cache)},
          {"different_weights", verdict.different_weights},
          {"different_config", verdict.different_config},
          {"parallel", verdict.parallel},
          {"measures_noise", verdict.measures_noise},
          {"passed", verdict.gate.passed},
          {"finding",
           {{"name", analysis::finding_name(verdict.finding)},
            {"text", json_text(verdict.finding_text)}}},
          {"gate",
           {{"name", json_text(verdict.gate.gate)},
            {"description", json_text(verdict.gate_description)},
            {"chosen", verdict.gate_chosen},
            {"near_tie_ulps", json_number(verdict.flip_bounds.near_tie_ulps)},
            {"noise_z", json_number(verdict.flip_bounds.noise_z)},
            {"passed", verdict.gate.passed},
            {"rules", json_rules(verdict.gate.rules)}}},
          {"figures", json_figures(verdict.figures)},
          {"amplification", json_number(verdict.run.amplification)},
          {"provenance", json_provenance(verdict.provenance)},
          {"numerics", json_agreement(verdict.numerics)},
          {"prefill", stretch_object(verdict.run.prefill)},
          {"modes", std::move(modes)}};
}

namespace {

Json json_cache(const run::UsedCache& used) {
  Json places = Json::array();
  for (const cache::PlaceBytes& place : used.use.places) {
    places.push_back({{"place", json_text(place.place)},
                      {"bytes", place.bytes},
                      {"peak_bytes", place.peak_bytes}});
  }
  return {{"spec", json_text(used.spec)},
          {"length", used.use.length},
          {"capacity", used.use.capacity},
          {"usage", json_number(used.use.usage())},
          {"logical_bytes", used.use.logical_bytes},
          {"physical_bytes", used.use.physical_bytes},
          {"peak_bytes", used.use.peak_bytes},
          {"places", std::move(places)},
          {"moved_bytes", used.use.moved_bytes},
          {"paged_out", used.use.paged_out},
          {"read_back", used.use.read_back},
          {"prefetched", used.use.pages.prefetched},
          {"prefetch_hits", used.use.pages.prefetch_hits},
          {"pages", json_page_traffic(used.use.pages)},
          {"emulated_link", used.use.emulated_link},
          {"applied_rows", used.use.applied_rows},
          {"evicted_rows", used.use.evicted_rows},
          {"visible_keys", used.use.visible_keys},
          {"seen_keys", used.use.seen_keys}};
}

}  // namespace

Json json_summary(const run::Summary& summary) {
  Json missing = Json::array();
  for (const std::string& path : summary.missing) missing.push_back(json_text(path));
  Json object = {{"inputs", summary.inputs},
                 {"steps", summary.steps},
                 {"prefill_seconds", json_number(summary.prefill_seconds)},
                 {"decode_seconds", json_number(summary.decode_seconds)},
                 {"wall_seconds", json_number(summary.wall_seconds)},
                 {"tokens_per_second",
                  json_number(run::tokens_per_second(summary.steps, summary.decode_seconds))},
                 {"compared_bytes", summary.compared_bytes},
                 {"missing", missing},
                 {"failed", summary.verdicts.empty() ? Json(nullptr) : Json(summary.failed())}};
  for (const run::UsedCache& used : summary.caches) object["caches"].push_back(json_cache(used));
  if (summary.saved_recordings > 0) {
    object["saved"] = {{"recordings", summary.saved_recordings},
                       {"bytes", summary.saved_bytes},
                       {"directory", json_text(summary.saved_directory)}};
  }
  return object;
}

}  // namespace kvtool::report
