// The tokens of a batch that is generated greedily: what each row has chosen, and which rows go on.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <vector>

#include "kvtool/engine/api.h"

namespace kvtool::engine {

class GreedyRows {
 public:
  // Both references outlive it.
  GreedyRows(std::size_t rows, const GenerateOptions& options, const ModelInfo& model)
      : options_(options), model_(model), rows_(rows), active_(rows, true) {}

  // Appends what the greedy keys (LogitStats::greedy_keys(), i64 [rows] on the host) of `step`
  // choose for the rows that go on; -1 is the prefill. Error kEnvironment where a row has no finite
  // choice.
  void choose(const at::Tensor& keys, std::int64_t step);

  [[nodiscard]] const std::vector<bool>& active() const { return active_; }
  [[nodiscard]] bool any_active() const;
  // What the next step feeds. A row that has ended goes on feeding its last token, so that the
  // batch keeps its shape and a replay, which knows that token, can do the same.
  [[nodiscard]] std::vector<std::int32_t> last_tokens() const;
  [[nodiscard]] const std::vector<GeneratedRow>& rows() const { return rows_; }

 private:
  void append(std::int32_t token, std::size_t row);

  const GenerateOptions& options_;
  const ModelInfo& model_;
  std::vector<GeneratedRow> rows_;
  std::vector<bool> active_;
};

}  // namespace kvtool::engine
