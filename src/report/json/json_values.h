// Values of the JSON report; docs/reports.md has the schema. The parts of the
// document are in json_*.cc, one file for each subject.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "kvtool/run/result.h"
#include "report/flip_texts.h"

namespace kvtool::run {
struct CacheBenchResult;
struct LabResult;
}  // namespace kvtool::run

namespace kvtool::report {

using Json = nlohmann::ordered_json;

// JSON has no NaN and no Inf: null.
[[nodiscard]] Json json_number(double value);
[[nodiscard]] Json json_number(const std::optional<double>& value);
// For long arrays: six significant digits.
[[nodiscard]] Json json_rounded(double value);
// Valid UTF-8 with U+FFFD in place of invalid bytes.
[[nodiscard]] Json json_text(const std::string& bytes);
// Empty means unknown: null.
[[nodiscard]] Json json_known(const std::string& value);
template <typename T>
[[nodiscard]] Json json_known(const std::optional<T>& value) {
  return value ? Json(*value) : Json(nullptr);
}
// -1, no finite logit, is null.
[[nodiscard]] Json json_token(std::int32_t token);
[[nodiscard]] Json json_token_list(const std::vector<std::int32_t>& tokens);

[[nodiscard]] Json json_place(const analysis::InputName& input);
// {"policy": {"digest", "entries", "missing"}, "platform": ...}.
[[nodiscard]] Json json_numerics(const analysis::Numerics& numerics);
// {"policy": {"same", "recorded", "live", "differing", "missing"}, "platform": ...}, or null.
[[nodiscard]] Json json_agreement(const std::optional<analysis::NumericsAgreement>& numerics);
[[nodiscard]] Json json_provenance(const std::vector<analysis::ProvenanceDifference>& differences);
[[nodiscard]] Json json_rules(const std::vector<analysis::RuleResult>& rules);
[[nodiscard]] Json json_figures(const analysis::Figures& figures);
// Everything about one compared token but its texts.
[[nodiscard]] Json json_comparison(const analysis::TokenComparison& token,
                                   const analysis::FlipBounds& bounds);

struct KvDetail {
  // Of many inputs: figures of every head and every layer x head x block cell.
  // Their prompts differ in length, so rows count from the profile's first.
  bool pooled = false;
  // Sequence position of the profile's position 0, in a pooled one of the
  // departure's input.
  std::uint64_t first_position = 0;
  std::optional<analysis::Departure> departure;
};
// null when nothing was measured.
[[nodiscard]] Json json_kv(const analysis::KvProfile& profile, const KvDetail& detail);

// null where no step read a page.
[[nodiscard]] Json json_page_traffic(const cache::PageTraffic& pages);

[[nodiscard]] Json json_input(const run::InputResult& input);
[[nodiscard]] Json json_verdict(const run::Verdict& verdict, const FlipTexts& texts);
[[nodiscard]] Json json_summary(const run::Summary& summary);
[[nodiscard]] Json json_recording(const run::RecordingInfo& info);
[[nodiscard]] Json json_packing(const run::PackingResult& result);
[[nodiscard]] Json json_selftest(const run::SelftestResult& result);
[[nodiscard]] Json json_calibration(const run::CalibrationResult& result);
[[nodiscard]] Json json_bench(const run::BenchResult& result);
[[nodiscard]] Json json_cache_bench(const run::CacheBenchResult& result);
[[nodiscard]] Json json_lab(const run::LabResult& result);
[[nodiscard]] Json json_verified(const format::FileVerdict& verdict);
[[nodiscard]] Json json_verify_totals(const run::VerifyTotals& totals);
[[nodiscard]] Json json_recovery(const run::RecoveryResult& recovery);

// Objects and arrays of them indented, an array of plain values on one line.
[[nodiscard]] std::string json_document(const Json& document);

}  // namespace kvtool::report
