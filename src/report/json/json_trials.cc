// Selftest and calibration in the JSON report.
#include "json/json_values.h"

namespace kvtool::report {
namespace {

Json fault_object(const run::FaultResult& fault) {
  return {{"name", json_text(fault.name)},
          {"description", json_text(fault.description)},
          {"skipped", json_known(fault.skipped)},
          {"caught", fault.skipped.empty() ? Json(fault.caught) : Json(nullptr)},
          {"strength", json_number(fault.strength)},
          {"strength_unit", json_known(fault.strength_unit)},
          {"smallest_caught", json_number(fault.smallest_caught)},
          {"largest_missed", json_number(fault.largest_missed)},
          {"departure", json_known(fault.departure)},
          {"located", fault.located},
          {"failed_rules", json_rules(fault.failed_rules)}};
}

// As --batch takes it; null in a parallel replay, which has none.
Json batch_of(run::ReplayShape shape) {
  switch (shape) {
    case run::ReplayShape::kRecorded: return "recorded";
    case run::ReplayShape::kSingle: return "1";
    case run::ReplayShape::kParallel: return nullptr;
  }
  return nullptr;
}

Json run_object(const run::CalibrationRun& run) {
  return {{"name", json_text(run.name)},
          {"cpu_isa", json_known(run.cpu_isa)},
          {"threads", run.threads == 0 ? Json(nullptr) : Json(run.threads)},
          {"batch", json_known(run.batch)},
          {"seconds", json_number(run.seconds)},
          {"figures", json_figures(run.figures)}};
}

Json calibrated_rule(const run::CalibratedRule& rule) {
  return {{"figure", json_text(rule.rule.figure)},
          {"min", json_number(rule.rule.min)},
          {"max", json_number(rule.rule.max)},
          {"noise", json_number(rule.noise)},
          {"run", json_known(rule.run)}};
}

}  // namespace

Json json_selftest(const run::SelftestResult& result) {
  Json faults = Json::array();
  for (const run::FaultResult& fault : result.faults) faults.push_back(fault_object(fault));
  return {
      {"model", json_text(result.model_slug)},
      {"gate", json_text(result.gate)},
      {"reference", json_text(result.reference)},
      {"cache", json_text(result.cache)},
      {"parallel", result.shape == run::ReplayShape::kParallel},
      {"batch", batch_of(result.shape)},
      {"inputs", result.inputs},
      {"steps", result.steps},
      {"seconds", json_number(result.seconds)},
      {"measures_noise", result.measures_noise},
      {"passed", result.passed()},
      {"control",
       {{"passed", result.control_passed}, {"failed_rules", json_rules(result.control_failures)}}},
      {"faults", std::move(faults)}};
}

Json json_calibration(const run::CalibrationResult& result) {
  Json runs = Json::array();
  for (const run::CalibrationRun& run : result.runs) runs.push_back(run_object(run));
  Json rules = Json::array();
  for (const run::CalibratedRule& rule : result.rules) rules.push_back(calibrated_rule(rule));
  Json notes = Json::array();
  for (const std::string& note : result.notes) notes.push_back(json_text(note));
  return {{"model", {{"slug", json_text(result.model_slug)}, {"id", json_known(result.model_id)}}},
          {"reference", json_text(result.reference)},
          {"cache", json_text(result.cache)},
          {"target", json_text(result.target)},
          {"safety_factor", json_number(result.safety_factor)},
          {"measures_noise", result.measures_noise},
          {"runs", std::move(runs)},
          {"rules", std::move(rules)},
          {"notes", std::move(notes)}};
}

}  // namespace kvtool::report
