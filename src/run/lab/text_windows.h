// The texts that a lab reads, as tokens.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "kvtool/engine/api.h"
#include "kvtool/run/lab_texts.h"
#include "kvtool/run/services.h"
#include "run/reference/reference_sets.h"

namespace kvtool::run {

struct LabText {
  std::string name;  // for people
  std::vector<std::vector<std::int32_t>> parts;
};

// The whole file, or the prompts of the selected recordings.
[[nodiscard]] LabText read_lab_text(const LabTextRequest& request, const engine::ModelInfo& model,
                                    const Services& services,
                                    std::span<const ReferenceSet> references);

// Consecutive windows of `context` tokens, at most request.windows of them. What is left at the end
// of a part is not read, but for a part of the recorded prompts that is shorter than a window and
// is one by itself. Error kUsage where there is no window, or a prefix leaves nothing of it.
[[nodiscard]] std::vector<engine::ScoreInput> windows_of(const LabText& text, std::uint64_t context,
                                                         const LabTextRequest& request);

// Lengths to measure: those that are asked for, each once, ascending. Error kUsage for one that the
// model has no positions for.
[[nodiscard]] std::vector<std::uint64_t> lab_contexts(const LabTextRequest& request,
                                                      const engine::ModelInfo& model);

}  // namespace kvtool::run
