// Perplexity of what a cache has read, beside that of the cache that made the recordings.
#pragma once

#include <span>
#include <vector>

#include "kvtool/engine/api.h"
#include "kvtool/run/lab_texts.h"

namespace kvtool::run {

// Negative log likelihoods of all scored tokens, text after text.
[[nodiscard]] std::vector<double> losses_of(std::span<const engine::ScoredText> texts);

// Fills what is measured. `full`: of the same tokens; empty where `losses` are those of full.
void take_perplexity(std::span<const double> losses, std::span<const double> full,
                     PerplexityRow& row);

}  // namespace kvtool::run
