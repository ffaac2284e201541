// Prompts of exactly so many tokens.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kvtool/run/experiment.h"
#include "kvtool/run/model_file.h"

namespace kvtool::run {

// "book.txt", "4 prompts", "token ids by a fixed rule".
[[nodiscard]] std::string prompt_source(const ExperimentRequest& request);

// The tokens of one model that its prompts are cut from.
class ExperimentPrompts {
 public:
  // Encodes them; errors as encode_prompts(), and kUsage for ids outside of the vocabulary.
  ExperimentPrompts(const ExperimentRequest& request, const ModelFile& file,
                    const engine::ModelInfo& model, const Services& services);

  // `rows` prompts of `context` tokens. Of a text consecutive ones, from its beginning again where
  // it ends; Error kUsage where it is too short for one. Of prompts each begins another one, and
  // goes on with those behind it, from the first again, as often as it takes.
  [[nodiscard]] std::vector<std::vector<std::int32_t>> rows(std::uint64_t context,
                                                            std::uint64_t rows) const;

 private:
  [[nodiscard]] std::vector<std::int32_t> of_text(std::uint64_t context, std::uint64_t row) const;
  [[nodiscard]] std::vector<std::int32_t> of_prompts(std::uint64_t context,
                                                     std::uint64_t row) const;

  std::string text_;  // empty: there is none
  std::uint32_t vocab_size_ = 0;
  std::vector<std::vector<std::int32_t>> encoded_;
};

}  // namespace kvtool::run
