#include "flip_texts.h"

namespace kvtool::report {
namespace {

// A summary lists no more; a replay of the wrong model may flip every token.
constexpr std::size_t kKeptFlipsPerInput = analysis::kMaxListedFlips;

}  // namespace

void FlipTexts::add(const run::InputResult& input) {
  if (!input.replay) return;
  for (const run::ModeReplay& mode : input.replay->modes) {
    bool first = true;
    std::size_t kept = 0;
    for (std::size_t i = 0; i < mode.comparison.tokens.size() && i < mode.texts.size(); ++i) {
      const analysis::TokenComparison& token = mode.comparison.tokens[i];
      if (token.verdict == analysis::TokenVerdict::kMatch) continue;
      const bool listed = first || token.verdict == analysis::TokenVerdict::kHardFlip;
      first = false;
      if (!listed || ++kept > kKeptFlipsPerInput) continue;
      texts_.insert_or_assign(
          Key{input.model_slug, input.batch_size, input.input_index, mode.mode, token.index},
          mode.texts[i]);
    }
  }
}

const run::TokenText& FlipTexts::find(const std::string& model_slug,
                                      const analysis::InputName& input, format::ReplayMode mode,
                                      std::uint64_t token_index) const {
  static const run::TokenText kUnknown;
  const auto found =
      texts_.find(Key{model_slug, input.batch_size, input.input_index, mode, token_index});
  return found == texts_.end() ? kUnknown : found->second;
}

}  // namespace kvtool::report
