#include "needles.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "kvtool/analysis/statistics.h"
#include "kvtool/base/error.h"
#include "kvtool/base/setting.h"
#include "kvtool/run/prompt_encoder.h"
#include "kvtool/run/prompts.h"

namespace kvtool::run {
namespace {

constexpr double kNeedleTwoSided = 0.975;
constexpr std::uint64_t kDigits = 100'000;
// As in "passkey retrieval": Mohtashami, Jaggi: "Landmark Attention", 2023.
constexpr const char* kFiller =
    " The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.";
constexpr const char* kPlaces[] = {"Paris",  "London", "Berlin", "Madrid", "Rome",   "Vienna",
                                   "Moscow", "Cairo",  "Tokyo",  "Delhi",  "Lima",   "Oslo",
                                   "Athens", "Dublin", "Prague", "Sydney", "Boston", "Chicago"};

// Without std::shuffle() and std::uniform_int_distribution, which may differ by library.
template <typename T>
void shuffle(std::vector<T>& values, std::mt19937& random) {
  for (std::size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[random() % i]);
}

struct NeedleWords {
  std::string fact;
  std::string question;
  std::string answered;  // question and answer
};

std::vector<NeedleWords> words_of_text(std::uint64_t text) {
  std::mt19937 random(static_cast<std::uint32_t>(text + 1));
  std::vector<std::string> places(std::begin(kPlaces), std::end(kPlaces));
  shuffle(places, random);
  std::vector<NeedleWords> words;
  for (std::uint64_t i = 0; i < kNeedles; ++i) {
    const std::string question = "The secret number of " + places[i] + " is";
    const std::string answered = question + fmt::format(" {:05}", random() % kDigits);
    words.push_back({" " + answered + ".", "\n" + question, "\n" + answered});
  }
  return words;
}

std::size_t common_prefix(const Tokens& a, const Tokens& b) {
  return static_cast<std::size_t>(std::ranges::mismatch(a, b).in1 - a.begin());
}

// Encodes pieces of text, without what the tokenizer puts before every text.
class PieceEncoder {
 public:
  PieceEncoder(const engine::ModelInfo& model, const Services& services)
      : model_(model), services_(services) {
    // Which differ from their first letter on.
    add("a");
    add("z");
  }

  std::size_t add(const std::string& piece) {
    prompts_.push_back(text_prompt(piece, "a needle"));
    return prompts_.size() - 1;
  }

  void encode() {
    for (EncodedPrompt& piece : encode_prompts(prompts_, model_.path, services_.encoder)) {
      pieces_.push_back(std::move(piece.token_ids));
    }
    begin_ = common_prefix(pieces_[0], pieces_[1]);
  }

  [[nodiscard]] Tokens begin() const { return {pieces_[0].begin(), after_begin(pieces_[0])}; }
  [[nodiscard]] Tokens piece(std::size_t index) const {
    return {after_begin(pieces_[index]), pieces_[index].end()};
  }
  [[nodiscard]] Tokens without_begin(const Tokens& tokens) const {
    return {after_begin(tokens), tokens.end()};
  }

 private:
  [[nodiscard]] Tokens::const_iterator after_begin(const Tokens& tokens) const {
    return tokens.begin() + static_cast<std::ptrdiff_t>(std::min(begin_, tokens.size()));
  }

  const engine::ModelInfo& model_;
  const Services& services_;
  std::vector<Prompt> prompts_;
  std::vector<Tokens> pieces_;
  std::size_t begin_ = 0;
};

// Where the pieces of a needle stand among those that are encoded.
struct NeedlePieces {
  std::size_t fact = 0;
  std::size_t question = 0;
  std::size_t answered = 0;
  std::string words;
};

// The answer's tokens are those behind what question and answer share with the question alone.
Needle needle_of(const PieceEncoder& encoder, const NeedlePieces& at) {
  const Tokens question = encoder.piece(at.question);
  const Tokens answered = encoder.piece(at.answered);
  const auto split =
      answered.begin() + static_cast<std::ptrdiff_t>(common_prefix(question, answered));
  return {.fact = encoder.piece(at.fact),
          .question = {answered.begin(), split},
          .answer = {split, answered.end()},
          .words = at.words.substr(at.words.find_first_not_of(' '))};
}

void append(Tokens& tokens, const Tokens& more) {
  tokens.insert(tokens.end(), more.begin(), more.end());
}

std::size_t tokens_without_filler(const NeedleParts& parts, const std::vector<Needle>& needles) {
  std::size_t tokens = parts.begin.size();
  for (const Needle& needle : needles) {
    tokens +=
        needle.fact.size() + needle.question.size() + needle.answer.size() + parts.full_stop.size();
  }
  return tokens;
}

class NeedleTextBuilder {
 public:
  NeedleTextBuilder(const NeedleParts& parts, const std::vector<Needle>& needles,
                    std::uint64_t context, std::size_t number)
      : parts_(parts), needles_(needles), number_(number) {
    const std::size_t least = tokens_without_filler(parts, needles);
    if (context < least + kNeedles) {
      throw_usage(setting("context") + " " + std::to_string(context) + ": " +
                  std::to_string(kNeedles) + " needles and their questions take " +
                  std::to_string(least) + " tokens: choose " + std::to_string(least + kNeedles) +
                  " or more");
    }
    space_ = context - least;
  }

  NeedleText build() {
    NeedleText text;
    Tokens& tokens = text.input.token_ids;
    tokens = parts_.begin;
    for (std::size_t i = 0; i < needles_.size(); ++i) {
      fill(tokens, space_ * i / (needles_.size() - 1));
      append(tokens, needles_[i].fact);
    }
    text.input.prompt_length = tokens.size();
    std::vector<std::size_t> order(needles_.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::mt19937 random(static_cast<std::uint32_t>(number_ + 1));
    shuffle(order, random);
    for (const std::size_t index : order) ask(index, text);
    return text;
  }

 private:
  void fill(Tokens& tokens, std::size_t to) {
    const std::size_t begin = number_ * space_;
    for (; filled_ < to; ++filled_) {
      tokens.push_back(parts_.filler[(begin + filled_) % parts_.filler.size()]);
    }
  }

  void ask(std::size_t index, NeedleText& text) const {
    Tokens& tokens = text.input.token_ids;
    const Needle& needle = needles_[index];
    append(tokens, needle.question);
    text.answers.push_back({.needle = index,
                            .first = tokens.size() - text.input.prompt_length,
                            .count = needle.answer.size()});
    append(tokens, needle.answer);
    append(tokens, parts_.full_stop);
  }

  const NeedleParts& parts_;
  const std::vector<Needle>& needles_;
  std::size_t number_;
  std::size_t space_ = 0;
  std::size_t filled_ = 0;
};

std::span<const engine::TokenScore> scores_of(const NeedleAnswer& answer,
                                              const engine::ScoredText& text) {
  return std::span(text.tokens).subspan(answer.first, answer.count);
}

}  // namespace

NeedleParts needle_parts(const LabTextRequest& request, const LabText& text,
                         const engine::ModelInfo& model, const Services& services) {
  PieceEncoder encoder(model, services);
  const std::size_t full_stop = encoder.add(".");
  const std::size_t filler = encoder.add(kFiller);
  std::vector<std::vector<NeedlePieces>> pieces(request.needle_texts);
  for (std::uint64_t number = 0; number < request.needle_texts; ++number) {
    for (const NeedleWords& words : words_of_text(number)) {
      const std::size_t fact = encoder.add(words.fact);
      const std::size_t question = encoder.add(words.question);
      pieces[number].push_back({fact, question, encoder.add(words.answered), words.fact});
    }
  }
  encoder.encode();
  NeedleParts parts{.texts = {},
                    .begin = encoder.begin(),
                    .filler = text.parts.empty() ? encoder.piece(filler)
                                                 : encoder.without_begin(text.parts.front()),
                    .full_stop = encoder.piece(full_stop),
                    .filler_name = text.parts.empty() ? "built-in sentences" : text.name};
  for (const std::vector<NeedlePieces>& of_text : pieces) {
    std::vector<Needle>& needles = parts.texts.emplace_back();
    for (const NeedlePieces& at : of_text) needles.push_back(needle_of(encoder, at));
  }
  return parts;
}

std::vector<NeedleText> needle_texts(const NeedleParts& parts, std::uint64_t context) {
  std::vector<NeedleText> texts;
  for (const std::vector<Needle>& needles : parts.texts) {
    texts.push_back(NeedleTextBuilder(parts, needles, context, texts.size()).build());
  }
  return texts;
}

std::vector<bool> recalled_needles(std::span<const NeedleText> texts,
                                   std::span<const engine::ScoredText> scores) {
  std::vector<bool> recalled;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    for (const NeedleAnswer& answer : texts[i].answers) {
      recalled.push_back(
          std::ranges::all_of(scores_of(answer, scores[i]), &engine::TokenScore::is_greedy));
    }
  }
  return recalled;
}

void take_needles(std::span<const NeedleText> texts, std::span<const engine::ScoredText> scores,
                  const std::vector<bool>& full, NeedleRow& row) {
  const std::vector<bool> recalled = recalled_needles(texts, scores);
  row.depths.resize(kNeedles);
  for (std::size_t i = 0; i < kNeedles; ++i) {
    row.depths[i].depth = static_cast<double>(i) / static_cast<double>(kNeedles - 1);
  }
  double sum = 0.0;
  std::uint64_t finite = 0;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    for (const NeedleAnswer& answer : texts[i].answers) {
      const std::size_t at = row.asked++;
      NeedleDepth& depth = row.depths[answer.needle];
      ++depth.asked;
      row.full_recalls += full[at] ? 1 : 0;
      if (recalled[at]) {
        ++row.recalled;
        ++depth.recalled;
        row.kept += full[at] ? 1 : 0;
      }
      double log_probability = 0.0;
      for (const engine::TokenScore& token : scores_of(answer, scores[i])) {
        log_probability += token.log_probability;
      }
      if (!std::isfinite(log_probability)) continue;
      sum += log_probability;
      ++finite;
    }
  }
  if (finite > 0) row.log_probability = sum / static_cast<double>(finite);
  row.recall = static_cast<double>(row.recalled) / static_cast<double>(row.asked);
  row.recall_low = analysis::clopper_pearson_lower(row.recalled, row.asked, kNeedleTwoSided);
  const auto missed =
      analysis::clopper_pearson_lower(row.asked - row.recalled, row.asked, kNeedleTwoSided);
  if (missed) row.recall_high = 1.0 - *missed;
}

}  // namespace kvtool::run
