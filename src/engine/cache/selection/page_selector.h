// The policies that show a step's query some pages of its keys: quest, mean-key, mean-deviation,
// mass and random, and the window of pages of the policy paged (docs/caches.md).
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "engine/batch_shape.h"
#include "engine/cache/selection/key_selector.h"
#include "engine/cache/selection/page_ranking.h"
#include "engine/row_layout.h"

namespace kvtool::engine {

// Pages count the positions of an input, not the slots of a batch. Sinks, recent pages and the
// first layers are seen whole, and so is everything by the queries of a prompt; of the pages
// between, each K/V head of each step sees those that rank highest, the earlier one where two
// rank alike.
class PageSelector : public KeySelector {
 public:
  // `shape` outlives the selector, or until clear().
  PageSelector(const cache::CacheSpec& spec, const RowLayout& layout, const BatchShape& shape,
               at::Device device);

  // One query for each of the inputs `first_row`... of a batch, all at the same position.
  struct Step {
    std::int64_t first_row = 0;
    std::int64_t position = 0;
    at::Tensor q;  // [inputs, Hq, 1, Dk]
    KeysAt keys;
  };
  struct Choice {
    cache::PageSplit split;
    at::Tensor pages;   // [inputs, num_kv_heads, split.chosen], best first
    at::Tensor scores;  // of the pages [first_candidate, recent_page), float32 likewise
  };
  // Of a step that chooses.
  [[nodiscard]] Choice choose(const AttentionCall& call, const Step& step);
  // Of the attention of the step that has made this choice, of each of the pages [first_candidate,
  // recent_page) an estimate of its share, the mean over heads: float32 [inputs, pages], on a CPU.
  [[nodiscard]] at::Tensor shares(const AttentionCall& call, const Choice& choice) const;

  [[nodiscard]] bool chooses(const AttentionCall& call, std::int64_t position) const override;
  void clear(const BatchShape& shape) override;
  void forget_from(std::int64_t slot) override;
  [[nodiscard]] std::uint64_t bytes() const override;

 protected:
  at::Tensor attend_chosen(const AttentionCall& call, const StepQueries& step) override;

 private:
  // What is kept of the complete pages of one layer; a page's keys do not change any more once it
  // is not among the recent ones.
  struct LayerPages {
    at::Tensor summaries;             // [B, heads, pages, numbers * key_dim], float32
    std::vector<std::int64_t> ready;  // pages, per row of the batch
  };
  // The keys that a step sees, in chunks of one page's length.
  struct Chunks {
    at::Tensor starts;               // positions, [inputs, heads, chunks]
    std::optional<at::Tensor> bias;  // [1, 1, 1, chunks * page], where some are not seen
  };
  // Of the chunks those that do not depend on the query's numbers: the same in many layers.
  struct AlwaysSeen {
    cache::QueryPlace place;
    at::Tensor sinks;   // starts, i64 [chunks]
    at::Tensor recent;  // likewise; the chosen pages stand between
    std::optional<at::Tensor> bias;
  };

  void summarize_up_to(std::int64_t pages, LayerPages& layer, const Step& step) const;
  [[nodiscard]] Chunks chunks_of(const at::Tensor& pages, const cache::QueryPlace& place,
                                 const cache::PageSplit& split, at::ScalarType dtype);
  [[nodiscard]] AlwaysSeen always_seen(const cache::QueryPlace& place,
                                       const cache::PageSplit& split,
                                       const at::TensorOptions& starts,
                                       const at::TensorOptions& bias) const;

  std::unique_ptr<PageRanking> ranking_;
  const BatchShape* shape_;
  std::int64_t page_;
  std::vector<LayerPages> layers_;
  std::optional<AlwaysSeen> always_;  // of the last step that chose
};

}  // namespace kvtool::engine
