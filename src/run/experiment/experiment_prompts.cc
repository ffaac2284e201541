#include "experiment_prompts.h"

#include <fmt/format.h>

#include "kvtool/base/error.h"
#include "kvtool/base/setting.h"
#include "kvtool/base/text.h"
#include "kvtool/run/cache_bench.h"
#include "kvtool/run/prompt_encoder.h"

namespace kvtool::run {
namespace {

// The whole text in one.
std::vector<Prompt> prompts_to_encode(const ExperimentRequest& request) {
  if (request.text.empty()) return request.run.prompts;
  std::vector<Prompt> prompts = cut_text_prompts(request.text, std::vector<std::uint64_t>{1});
  prompts.front().cut_to_tokens = 0;
  prompts.front().origin = request.text.string();
  return prompts;
}

}  // namespace

std::string prompt_source(const ExperimentRequest& request) {
  if (!request.text.empty()) return request.text.string();
  if (request.run.prompts.empty()) return "token ids by a fixed rule";
  return counted(request.run.prompts.size(), "prompt") + ", joined to the length";
}

ExperimentPrompts::ExperimentPrompts(const ExperimentRequest& request, const ModelFile& file,
                                     const engine::ModelInfo& model, const Services& services)
    : text_(request.text.string()), vocab_size_(model.vocab_size) {
  const std::vector<Prompt> prompts = prompts_to_encode(request);
  for (EncodedPrompt& encoded : encode_prompts(prompts, file.path, services.encoder)) {
    for (const std::int32_t id : encoded.token_ids) {
      if (id >= 0 && static_cast<std::uint32_t>(id) < vocab_size_) continue;
      throw_usage(fmt::format("{}: token id {} is outside the vocabulary of {} (0 to {})",
                              prompts[encoded_.size()].origin, id, model.model_id,
                              vocab_size_ - 1));
    }
    encoded_.push_back(std::move(encoded.token_ids));
  }
}

std::vector<std::vector<std::int32_t>> ExperimentPrompts::rows(std::uint64_t context,
                                                               std::uint64_t rows) const {
  std::vector<std::vector<std::int32_t>> prompts;
  for (std::uint64_t row = 0; row < rows; ++row) {
    if (encoded_.empty()) {
      const std::vector<std::int32_t> ids = ruled_ids(context * (row + 1), vocab_size_);
      prompts.emplace_back(ids.end() - static_cast<std::ptrdiff_t>(context), ids.end());
    } else {
      prompts.push_back(text_.empty() ? of_prompts(context, row) : of_text(context, row));
    }
  }
  return prompts;
}

std::vector<std::int32_t> ExperimentPrompts::of_text(std::uint64_t context,
                                                     std::uint64_t row) const {
  const std::vector<std::int32_t>& tokens = encoded_.front();
  const std::uint64_t pieces = tokens.size() / context;
  if (pieces == 0) {
    throw_usage(
        fmt::format("{}: the text has only {} of this model: give a longer one, or {} {} "
                    "at most",
                    text_, counted(tokens.size(), "token"), setting("context"), tokens.size()));
  }
  const auto begin = tokens.begin() + static_cast<std::ptrdiff_t>(row % pieces * context);
  return {begin, begin + static_cast<std::ptrdiff_t>(context)};
}

std::vector<std::int32_t> ExperimentPrompts::of_prompts(std::uint64_t context,
                                                        std::uint64_t row) const {
  std::vector<std::int32_t> tokens;
  for (std::size_t at = row % encoded_.size(); tokens.size() < context;
       at = (at + 1) % encoded_.size()) {
    tokens.insert(tokens.end(), encoded_[at].begin(), encoded_[at].end());
  }
  tokens.resize(context);
  return tokens;
}

}  // namespace kvtool::run
