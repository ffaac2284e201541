#include "engine/greedy_rows.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "engine/logit_stats.h"
#include "kvtool/base/error.h"

namespace kvtool::engine {

void GreedyRows::choose(const at::Tensor& keys, std::int64_t step) {
  for (std::size_t row = 0; row < rows_.size(); ++row) {
    if (!active_[row]) continue;
    const std::int64_t key = keys.const_data_ptr<std::int64_t>()[row];
    if (!std::isfinite(LogitStats::logit_of(key))) {
      throw_environment("row " + std::to_string(row) + " of the batch: the logits of " +
                        (step < 0 ? "the prefill" : "step " + std::to_string(step)) +
                        " hold NaN or Inf, so there is no next token; try another dtype when "
                        "exporting (float16 overflows where bfloat16 does not)");
    }
    append(LogitStats::token_of(key), row);
  }
}

void GreedyRows::append(std::int32_t token, std::size_t row) {
  GeneratedRow& generated = rows_[row];
  generated.tokens.push_back(token);
  const auto& eos = model_.eos_token_ids;
  if (!options_.ignore_eos && std::find(eos.begin(), eos.end(), token) != eos.end()) {
    generated.stop_reason = format::StopReason::kEndOfSequence;
    active_[row] = false;
  } else if (generated.tokens.size() == options_.max_new_tokens) {
    active_[row] = false;
  }
}

bool GreedyRows::any_active() const {
  return std::find(active_.begin(), active_.end(), true) != active_.end();
}

std::vector<std::int32_t> GreedyRows::last_tokens() const {
  std::vector<std::int32_t> tokens;
  for (const GeneratedRow& row : rows_) tokens.push_back(row.tokens.back());
  return tokens;
}

}  // namespace kvtool::engine
