// Results with every part set, for golden texts.
#pragma once

#include <string>
#include <vector>

#include "report/reporter.h"

namespace kvtool::report {

[[nodiscard]] run::InputResult generated_input();
// Five tokens of which token 2 is a tie; K/V of the steps differs. inject only.
[[nodiscard]] run::InputResult replayed_input();
// Nine tokens. inject agrees; forced has a hard flip at step 5, where K of layer
// 3 is wrong; free leaves the reference's text at the same step.
[[nodiscard]] run::InputResult three_mode_input();
// replayed_input() with kHostileText for prompt, tokens, paths and labels.
[[nodiscard]] run::InputResult hostile_input();
// Terminal, HTML, XML and Markdown markup, a mention, a link, a right-to-left
// override, a character that XML forbids, NUL and bytes that are not UTF-8.
[[nodiscard]] const std::string& hostile_text();

// Of recordings with a sample of logits, in two modes: noise is known of all tokens, 0.0625 in
// each. inject: a tie and a noise flip; forced: a hard flip and a noise flip whose gap is only
// known from the live logits.
[[nodiscard]] run::InputResult noise_input();

[[nodiscard]] run::RecordingInfo recording_info();
// One fault caught and located, one missed, one skipped; the control passes.
[[nodiscard]] run::SelftestResult selftest_result();
[[nodiscard]] run::CalibrationResult calibration_result();
// One recording measured three times, and something that it does not hold.
[[nodiscard]] run::BenchResult bench_result();

// A gate of four rules: one passes, one fails, one is a pattern, one misses its figure.
[[nodiscard]] analysis::Gate sample_gate();
[[nodiscard]] analysis::ProvenanceDifference sample_difference();
// The same policy, and a platform that differs in torch and does not tell the CPU.
[[nodiscard]] analysis::NumericsAgreement sample_agreement();

// The verdict on inputs of one model, judged by `gate`; finding_text is fixed.
[[nodiscard]] run::Verdict verdict_of(const std::vector<run::InputResult>& inputs,
                                      const analysis::Gate& gate, bool gate_chosen);
[[nodiscard]] run::Summary summary_of(const std::vector<run::InputResult>& inputs);

// The calls of a whole command, in order, with the default gate.
void report_all(Reporter& reporter, const run::InputResult& input);
// The same up to the summary, which is the caller's.
void report_run(Reporter& reporter, const std::vector<run::InputResult>& inputs,
                const run::Summary& summary);

}  // namespace kvtool::report
