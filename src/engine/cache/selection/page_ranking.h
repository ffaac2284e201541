// Which pages of its keys a query should see: the rules by which page selectors differ
// (docs/caches.md has their formulas and sources).
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>

#include "engine/attention_op.h"

namespace kvtool::engine {

// Positions [first, first + count) of the inputs of a step, as the cache shows them:
// [inputs, num_kv_heads, count, key_dim].
using KeysAt = std::function<at::Tensor(std::int64_t first, std::int64_t count)>;

// One query for each of some inputs, all at the same position, and the pages [first, end) of
// which some are chosen.
struct PageQuery {
  const AttentionCall& call;  // of the layer; its q, k and v may be those of further queries
  at::Tensor q;               // [inputs, num_kv_heads, group, key_dim], float32
  std::int64_t position = 0;
  KeysAt keys;
  at::Tensor summaries;  // of the pages, [inputs, num_kv_heads, end - first, numbers * key_dim]
  std::int64_t first_visible = 0;  // position, by the layer's own window
  std::int64_t page = 0;           // positions
  std::int64_t first = 0;
  std::int64_t end = 0;
};

class PageRanking {
 public:
  virtual ~PageRanking() = default;

  // Float32 numbers that it keeps of a page for each K/V head and channel of K.
  [[nodiscard]] virtual std::int64_t numbers() const { return 0; }
  // keys [.., page, key_dim], float32 -> [.., numbers() * key_dim]. Of a complete page, once.
  [[nodiscard]] virtual at::Tensor summarize(const at::Tensor& keys) const;
  // Float32 [inputs, num_kv_heads, end - first]: the higher, the sooner a page is seen.
  [[nodiscard]] virtual at::Tensor scores(const PageQuery& query) const = 0;
  // What such scores say of the share of attention that the pages have, likewise, of a K/V head 1
  // in all: as if each page had one key, whose product with the query is the score.
  [[nodiscard]] virtual at::Tensor shares(const at::Tensor& scores,
                                          const AttentionCall& call) const;
};

// Error kMisuse for a policy that ranks no pages.
[[nodiscard]] std::unique_ptr<PageRanking> make_page_ranking(std::string_view policy);

}  // namespace kvtool::engine
