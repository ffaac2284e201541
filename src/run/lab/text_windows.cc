#include "text_windows.h"

#include <algorithm>

#include "kvtool/base/error.h"
#include "kvtool/base/setting.h"
#include "kvtool/base/text.h"
#include "kvtool/run/prompt_encoder.h"
#include "kvtool/run/prompts.h"

namespace kvtool::run {
namespace {

// A token to read and one to score.
constexpr std::uint64_t kShortestWindow = 2;

LabText recorded_prompts(std::span<const ReferenceSet> references) {
  LabText text{.name = "the recorded prompts", .parts = {}};
  for (const ReferenceSet& reference : references) {
    for (const ReferenceEntry& entry : reference.entries) {
      if (!entry.selected || std::ranges::find(text.parts, entry.prompt_ids) != text.parts.end()) {
        continue;
      }
      text.parts.push_back(entry.prompt_ids);
    }
  }
  return text;
}

std::uint64_t prefix_of(const LabTextRequest& request, std::uint64_t window) {
  return request.prefix.value_or(window / 2);
}

void refuse_long_prefix(const LabTextRequest& request, std::uint64_t context) {
  if (!request.prefix || *request.prefix < context) return;
  throw_usage(setting("prefix") + " " + std::to_string(*request.prefix) +
              " leaves no token to score of " + setting("context") + " " + std::to_string(context) +
              ": choose a smaller one");
}

[[noreturn]] void throw_too_short(const LabText& text, std::uint64_t context,
                                  const LabTextRequest& request) {
  std::size_t longest = 0;
  for (const auto& part : text.parts) longest = std::max(longest, part.size());
  if (!request.text.empty()) {
    throw_usage(text.name + ": the text has only " + counted(longest, "token") +
                " of this model: give a longer one, or " + setting("context") + " " +
                std::to_string(longest) + " at most");
  }
  throw_usage("the longest of the recorded prompts has " + counted(longest, "token") +
              ", too few to score one after " +
              std::to_string(prefix_of(request, std::min<std::uint64_t>(longest, context))) +
              ": name a text with " + setting("text"));
}

}  // namespace

LabText read_lab_text(const LabTextRequest& request, const engine::ModelInfo& model,
                      const Services& services, std::span<const ReferenceSet> references) {
  if (request.text.empty()) return recorded_prompts(references);
  constexpr std::uint64_t kWhole[] = {0};
  std::vector<Prompt> prompts = cut_text_prompts(request.text, kWhole);
  prompts.front().origin = request.text.string();
  std::vector<EncodedPrompt> encoded = encode_prompts(prompts, model.path, services.encoder);
  return {.name = request.text.string(), .parts = {std::move(encoded.front().token_ids)}};
}

std::vector<engine::ScoreInput> windows_of(const LabText& text, std::uint64_t context,
                                           const LabTextRequest& request) {
  refuse_long_prefix(request, context);
  std::vector<engine::ScoreInput> windows;
  for (const std::vector<std::int32_t>& part : text.parts) {
    const bool is_short = request.text.empty() && part.size() < context;
    const std::uint64_t length = is_short ? part.size() : context;
    const std::uint64_t prefix = prefix_of(request, length);
    if (length < kShortestWindow || prefix >= length) continue;
    for (std::size_t at = 0; at + length <= part.size() && windows.size() < request.windows;
         at += length) {
      const auto begin = part.begin() + static_cast<std::ptrdiff_t>(at);
      windows.push_back({.token_ids = {begin, begin + static_cast<std::ptrdiff_t>(length)},
                         .prompt_length = prefix});
    }
  }
  if (windows.empty()) throw_too_short(text, context, request);
  return windows;
}

std::vector<std::uint64_t> lab_contexts(const LabTextRequest& request,
                                        const engine::ModelInfo& model) {
  std::vector<std::uint64_t> contexts = request.contexts;
  if (contexts.empty()) contexts = {std::min(kLabContext, model.max_positions)};
  std::ranges::sort(contexts);
  contexts.erase(std::unique(contexts.begin(), contexts.end()), contexts.end());
  if (contexts.front() < kShortestWindow || contexts.back() > model.max_positions) {
    const bool is_long = contexts.back() > model.max_positions;
    throw_usage(setting("context") + " " +
                std::to_string(is_long ? contexts.back() : contexts.front()) +
                ": a window has 2 tokens to read and score, and at most as many as the model has "
                "positions: " +
                std::to_string(model.max_positions));
  }
  return contexts;
}

}  // namespace kvtool::run
