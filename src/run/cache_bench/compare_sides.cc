#include "compare_sides.h"

#include <algorithm>
#include <string>

#include "kvtool/analysis/logit_noise.h"
#include "kvtool/analysis/tokens.h"
#include "kvtool/base/dtype.h"

namespace kvtool::run {
namespace {

analysis::HeldLogits held(const format::StepStats& stats) {
  return {.top_k = static_cast<std::uint32_t>(stats.top_ids.size()),
          .sample = static_cast<std::uint32_t>(stats.sampled_logits.size())};
}

// What layers compute in whose K/V are of this type: 8 bits are a way to keep them.
DType computed_in(DType kept) { return element_size(kept) > 1 ? kept : DType::kFloat32; }

std::string text_of_token(const engine::Model& model, std::int32_t token) {
  return token < 0 ? std::string() : std::string(model.token_bytes(token));
}

}  // namespace

std::optional<TokenDifference> first_difference(const std::vector<format::StepStats>& with_cache,
                                                const std::vector<format::StepStats>& without_cache,
                                                const engine::Model& model) {
  const auto parted = std::ranges::mismatch(with_cache, without_cache, {},
                                            &format::StepStats::token, &format::StepStats::token);
  if (parted.in1 == with_cache.end() || parted.in2 == without_cache.end()) return std::nullopt;
  const auto index = static_cast<std::size_t>(parted.in1 - with_cache.begin());
  const engine::ModelInfo& info = model.info();
  const analysis::TokenOptions options{
      .reference_logits_dtype = info.logits_dtype,
      .live_logits_dtype = info.logits_dtype,
      .layer_dtype = computed_in(info.geometry.layer(0).value_dtype),
      .vocab_size = info.vocab_size,
      .measures_noise = analysis::show_noise(held(*parted.in1), held(*parted.in2))};
  std::vector<analysis::TokenComparison> tokens;
  analysis::StretchCandidates candidates;
  // The prefill is the same pass on both sides, which says nothing of the noise of steps.
  for (std::size_t i = index == 0 ? 0 : 1; i <= index; ++i) {
    tokens.push_back(
        analysis::compare_token(i, with_cache[i], without_cache[i], options, candidates));
  }
  analysis::judge_noise(tokens, candidates, options);
  const analysis::TokenComparison& token = tokens.back();
  return TokenDifference{.index = index,
                         .with_cache = token.recorded,
                         .without_cache = token.predicted,
                         .with_text = text_of_token(model, token.recorded),
                         .without_text = text_of_token(model, token.predicted),
                         .verdict = std::string(analysis::verdict_name(token.verdict)),
                         .gap = token.judged_gap(),
                         .ulp = token.ulp,
                         .explained = token.noise_bound};
}

}  // namespace kvtool::run
