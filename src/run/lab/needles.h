// Facts in a text, questions for them behind it, and whether a cache that has read it answers.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kvtool/engine/api.h"
#include "kvtool/run/lab_texts.h"
#include "kvtool/run/services.h"
#include "text_windows.h"

namespace kvtool::run {

using Tokens = std::vector<std::int32_t>;

// "The secret number of Paris is 48213.": the answer is the number.
struct Needle {
  Tokens fact;
  Tokens question;  // "\nThe secret number of Paris is"
  Tokens answer;
  std::string words;  // the fact for people
};

// What texts with needles are made of, in tokens of one model.
struct NeedleParts {
  std::vector<std::vector<Needle>> texts;  // kNeedles each
  Tokens begin;                            // what the tokenizer puts before every text
  Tokens filler;                           // repeated as often as it takes
  Tokens full_stop;
  std::string filler_name;
};

// `text`: read_lab_text() of --text, or without parts: built-in sentences. The same needles in
// every run. Errors as encode_prompts().
[[nodiscard]] NeedleParts needle_parts(const LabTextRequest& request, const LabText& text,
                                       const engine::ModelInfo& model, const Services& services);

// A needle's answer among the tokens that are scored.
struct NeedleAnswer {
  std::size_t needle = 0;  // by depth
  std::size_t first = 0;
  std::size_t count = 0;
};

struct NeedleText {
  engine::ScoreInput input;
  std::vector<NeedleAnswer> answers;  // in the order of the questions
};

// The text with the needles spread evenly over the prompt pass, the first at its begin, the last at
// its end, and the questions in another order. `context` tokens in all. Error kUsage where they do
// not fit.
[[nodiscard]] std::vector<NeedleText> needle_texts(const NeedleParts& parts, std::uint64_t context);

// Whether each needle is recalled, text after text, in the order of the questions.
[[nodiscard]] std::vector<bool> recalled_needles(std::span<const NeedleText> texts,
                                                 std::span<const engine::ScoredText> scores);

// Fills what is measured. `full`: recalled_needles() of the full cache.
void take_needles(std::span<const NeedleText> texts, std::span<const engine::ScoredText> scores,
                  const std::vector<bool>& full, NeedleRow& row);

}  // namespace kvtool::run
