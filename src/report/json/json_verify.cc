// Verified and recovered recordings in the JSON report.
#include "json/json_values.h"

namespace kvtool::report {
namespace {

Json json_damage(const format::Damage& damage) {
  Json columns = Json::array();
  for (const format::DamagedColumn& column : damage.columns) {
    columns.push_back({{"layer", column.layer}, {"kv", column.is_value ? "V" : "K"}});
  }
  return {{"place", json_text(describe_place(damage))},
          {"record", damage.record},
          {"problem", json_text(damage.problem)},
          {"in_packed", damage.in_packed},
          {"offset_bytes", damage.offset_bytes},
          {"length_bytes", damage.length_bytes},
          {"first_step", json_known(damage.first_step)},
          {"last_step", json_known(damage.last_step)},
          {"first_position", json_known(damage.first_position)},
          {"last_position", json_known(damage.last_position)},
          {"located", damage.located},
          {"columns", std::move(columns)},
          {"columns_shared_by_steps", damage.shared},
          {"statistics_damaged", damage.statistics}};
}

}  // namespace

Json json_verified(const format::FileVerdict& verdict) {
  Json damages = Json::array();
  for (const format::Damage& damage : verdict.damages) damages.push_back(json_damage(damage));
  return {{"path", json_text(verdict.path.string())},
          {"state", format::file_state_name(verdict.state)},
          {"bytes", verdict.bytes},
          {"packed", verdict.packed},
          {"error", json_known(verdict.error)},
          {"save_mode", verdict.save_mode ? Json(save_mode_name(*verdict.save_mode)) : Json()},
          {"complete", verdict.complete},
          {"truncation", json_known(verdict.truncation)},
          {"steps", verdict.num_steps},
          {"intact_steps", verdict.intact_steps},
          {"records", verdict.num_records},
          {"damages", std::move(damages)}};
}

Json json_verify_totals(const run::VerifyTotals& totals) {
  return {{"files", totals.files},     {"truncated", totals.truncated},
          {"damaged", totals.damaged}, {"unreadable", totals.unreadable},
          {"bytes", totals.bytes},     {"seconds", json_number(totals.seconds)}};
}

Json json_recovery(const run::RecoveryResult& recovery) {
  const format::RecoverResult& result = recovery.result;
  return {{"input", json_verified(result.input)},
          {"source_uuid", json_known(result.source_uuid)},
          {"output", result.written ? json_text(recovery.output) : Json(nullptr)},
          {"uuid", json_known(result.uuid)},
          {"bytes", result.bytes},
          {"steps", result.steps},
          {"lost", result.lost},
          {"salvaged", json_known(result.salvaged.string())},
          {"salvaged_steps", result.salvaged_steps}};
}

}  // namespace kvtool::report
