// Measurements of recordings in the JSON report.
#include "json/json_values.h"

namespace kvtool::report {

Json json_bench(const run::BenchResult& result) {
  if (!result.made.path.empty()) {
    return {{"made", {{"path", json_text(result.made.path)}, {"bytes", result.made.bytes}}}};
  }
  Json recordings = Json::array();
  for (const run::RecordingBench& recording : result.recordings) {
    Json figures = Json::array();
    for (const run::BenchFigure& figure : recording.figures) {
      figures.push_back({{"measurement", figure.measurement},
                         {"title", figure.title},
                         {"unit", figure.unit},
                         {"median", json_number(figure.median())},
                         {"values", figure.values}});
    }
    Json left_out = Json::object();
    for (const auto& [name, reason] : recording.left_out) left_out[name] = reason;
    recordings.push_back({{"path", json_text(recording.path)},
                          {"bytes", recording.bytes},
                          {"kv_bytes", recording.kv_bytes},
                          {"save_mode", recording.save_mode},
                          {"steps", recording.steps},
                          {"figures", std::move(figures)},
                          {"left_out", std::move(left_out)}});
  }
  return {{"repeats", result.repeats}, {"recordings", std::move(recordings)}};
}

}  // namespace kvtool::report
