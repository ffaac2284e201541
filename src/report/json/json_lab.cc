// What policies cost a model, in the JSON report.
#include "json/json_values.h"
#include "kvtool/run/cache_bench.h"
#include "kvtool/run/lab.h"
#include "lab/lab_tables.h"

namespace kvtool::report {

Json json_lab_quality(const run::LabQuality& quality) {
  return {{"compared", quality.compared},
          {"matches", quality.matches},
          {"ties", quality.ties},
          {"noise_flips", quality.noise_flips},
          {"near_ties", quality.near_ties},
          {"hard_flips", quality.hard_flips},
          {"nonfinite", quality.nonfinite},
          {"agreement", json_number(quality.agreement)},
          {"agreement_low95", json_number(quality.agreement_low)},
          {"agreement_high95", json_number(quality.agreement_high)},
          {"flips_observed", quality.flips()},
          {"flips_expected", json_number(quality.expected_flips)},
          {"flips_deviation", json_number(quality.expected_deviation)},
          {"kl_is_estimate", quality.kl_is_estimate},
          {"kl_mean", json_number(quality.kl_mean)},
          {"kl_standard_error", json_number(quality.kl_error)},
          {"kl_median", json_number(quality.kl_median)},
          {"kl_p99", json_number(quality.kl_p99)},
          {"same_top", json_number(quality.same_top)},
          {"rms_delta_p", json_number(quality.rms_delta_p)},
          {"key_relative_l2", json_number(quality.key_l2)},
          {"value_relative_l2", json_number(quality.value_l2)},
          {"agreed_tokens_median", json_number(quality.agreed_median)},
          {"agreed_tokens_min", json_number(quality.agreed_min)}};
}

namespace {

Json json_lab_bytes(const run::LabBytes& bytes) {
  return {{"positions", bytes.positions},
          {"logical_bytes", bytes.logical_bytes},
          {"kept_bytes", bytes.kept_bytes},
          {"peak_bytes", bytes.peak_bytes},
          {"logical_per_token", json_number(bytes.logical_per_token())},
          {"kept_per_token", json_number(bytes.kept_per_token())},
          {"peak_per_token", json_number(bytes.peak_per_token())},
          {"kept_share", json_number(bytes.kept_share())},
          {"read_bytes_per_step", json_number(bytes.read_bytes_per_step)},
          {"moved_bytes", bytes.moved_bytes},
          {"emulated_link", bytes.emulated_link}};
}

Json json_lab_applied(const run::LabRow& row) {
  const run::LabApplied& applied = row.applied;
  return {{"acted",
           row.counts() && row.role != run::LabRole::kFull && row.role != run::LabRole::kNoise},
          {"idle", json_known(row.idle)},
          {"applied_rows", applied.applied_rows},
          {"visible_keys", applied.visible_keys},
          {"seen_keys", applied.seen_keys},
          {"seen_share", json_number(applied.seen_share())},
          {"paged_out", applied.paged_out},
          {"read_back", applied.read_back}};
}

Json json_lab_times(const std::vector<double>& values) {
  if (values.empty()) return nullptr;
  return {{"count", values.size()},
          {"median", json_number(run::quantile_of(values, 0.5))},
          {"p5", json_number(run::quantile_of(values, 0.05))},
          {"p95", json_number(run::quantile_of(values, 0.95))}};
}

Json json_lab_ghost(const run::LabPaging& paging) {
  if (!paging.ghost) return nullptr;
  const run::LabGhost& ghost = *paging.ghost;
  Json json = {{"spec", json_known(ghost.spec)}, {"missing", json_known(ghost.missing)}};
  if (!ghost.ran()) return json;
  json["step_ms"] = json_lab_times(ghost.step_ms);
  json["decode_seconds"] = json_number(ghost.decode_seconds);
  json["stall_share"] = json_number(paging.ghost_stall_share());
  json["other_tokens"] = ghost.other_tokens;
  return json;
}

// null where no step read a page.
Json json_lab_pages(const run::LabPaging& paging) {
  Json json = json_page_traffic(paging.pages);
  if (json.is_null()) return json;
  json["prefetched"] = paging.pages.prefetched;
  json["prefetch_hits"] = paging.pages.prefetch_hits;
  json["decode_seconds"] = json_number(paging.decode_seconds);
  json["stall_share"] = json_number(paging.stall_share());
  json["ghost"] = json_lab_ghost(paging);
  return json;
}

Json json_lab_row(const run::LabRow& row) {
  Json json = {{"role", run::lab_role_name(row.role)}, {"name", json_text(row.name)},
               {"given", json_text(row.given)},        {"budget", json_known(row.budget)},
               {"spec", json_known(row.spec)},         {"frame", json_known(row.frame)},
               {"note", json_known(row.note)},         {"missing", json_known(row.missing)}};
  if (!row.ran()) return json;
  json["mode"] = row.mode;
  json["modes"] = row.modes;
  json["quality"] = json_lab_quality(row.quality);
  if (row.attention_l2) {
    Json layers = Json::array();
    for (const double value : row.attention_l2_by_layer) layers.push_back(json_number(value));
    json["attention_relative_l2"] = {{"all", json_number(row.attention_l2)},
                                     {"by_layer", std::move(layers)}};
  }
  // The noise may have run in another process, of which nothing else is known.
  const bool has_bytes = row.bytes.logical_bytes > 0;
  json["bytes"] = has_bytes ? json_lab_bytes(row.bytes) : Json(nullptr);
  json["applied"] = json_lab_applied(row);
  json["prefill_ms"] = json_lab_times(row.time.prefill_ms);
  json["step_ms"] = json_lab_times(row.time.step_ms);
  json["steps_timed_singly"] = row.time.of_steps;
  json["pages"] = json_lab_pages(row.paging);
  json["regret"] = {{"kl_ratio", json_number(row.regret_ratio)},
                    {"kl_difference", json_number(row.regret_difference)}};
  json["gate"] = {{"name", row.gate},
                  {"passed", row.gate_passed},
                  {"worst_failure", json_known(row.gate_failure)}};
  return json;
}

}  // namespace

Json json_lab(const run::LabResult& result) {
  Json rows = Json::array();
  for (const run::LabRow& row : result.rows) rows.push_back(json_lab_row(row));
  Json checks = Json::array();
  for (const run::LabCheck& check : result.checks) {
    checks.push_back({{"name", check.name},
                      {"better", json_text(check.better)},
                      {"worse", json_text(check.worse)},
                      {"agreement", check.text},
                      {"passed", check.passed}});
  }
  Json notes = Json::array();
  for (const std::string& note : result.notes) notes.push_back(json_text(note));
  Json json = {
      {"model", {{"slug", json_text(result.model_slug)}, {"id", json_text(result.model_id)}}},
      {"dtype", json_known(result.dtype)},
      {"from", json_text(result.from)},
      {"reference_cache", json_text(result.reference_cache)},
      {"inputs", result.inputs},
      {"steps", result.steps},
      {"shortest_positions", result.shortest},
      {"longest_positions", result.longest},
      {"rows", std::move(rows)},
      {"checks", std::move(checks)},
      {"checks_passed", result.checks_passed()},
      {"notes", std::move(notes)}};
  json["pairs"] = json_pairs(result.pairs);
  if (result.sensitivity) json["sensitivity"] = json_sensitivity(*result.sensitivity);
  if (!result.breakeven.empty()) json["breakeven"] = json_breakeven(result.breakeven);
  if (!result.perplexities.empty()) json["perplexity"] = json_perplexity(result.perplexities);
  if (!result.needles.empty()) json["needles"] = json_needles(result.needles);
  return json;
}

}  // namespace kvtool::report
