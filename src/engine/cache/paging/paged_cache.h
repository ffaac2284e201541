// The policy "paged": pages of positions, some on the device, all others in host memory
// (docs/caches.md).
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <mutex>
#include <span>
#include <vector>

#include "engine/cache/paging/page_store.h"
#include "engine/cache/stored_cache.h"

namespace kvtool::engine {

// With fewer frames than pages. A step attends over the pages that have a frame, then over those
// that it has to fetch, as many at a time as there is room for, and merges the parts; the result
// does not depend on the order but for rounding. A prompt is attended as the model made it.
//
// Threads: read(), read_slot() and use() may be called on any while a pass runs.
class PagedCache : public StoredCache {
 public:
  // `layout` and `shape` outlive the cache.
  PagedCache(const cache::PagedSettings& settings, std::int64_t frames, const RowLayout& layout,
             const BatchShape& shape, at::Device device);

  void clear(const BatchShape& shape) override;
  void begin(SlotRange slots) override;

  void read(const LayerRows& where, const LayerKv& kv) const override;
  void write(const LayerRows& where, const LayerKv& kv) override;
  [[nodiscard]] cache::CacheUse use() const override;

 protected:
  void take_in(const AttentionCall& call) override;
  // A copy of all of them.
  [[nodiscard]] LayerKv seen(std::int64_t layer, SlotRange slots) override;
  at::Tensor attend_held(const AttentionCall& call) override;

 private:
  // Of one row in a step: pages, from the first that its query sees to its own.
  struct RowPages {
    std::int64_t first = 0;
    std::int64_t last = 0;
    std::int64_t first_position = 0;  // that the query sees
    std::int64_t end_position = 0;
    std::vector<std::int64_t> missing;  // without a frame, ascending
    std::vector<bool> shown;            // per page: attended now
  };

  at::Tensor attend_step(const AttentionCall& call);
  [[nodiscard]] RowPages pages_of(const AttentionCall& call, std::int64_t row);
  // Fetches of `missing` as many as fit, and shows them alone.
  void fetch_some(std::int64_t layer, std::int64_t row, RowPages& pages);
  // bool [B, 1, 1, frames * page]: what of a layer's frames is not shown.
  [[nodiscard]] const at::Tensor& hidden(std::int64_t layer, std::span<const RowPages> rows);
  // Positions of one row, without its padding.
  [[nodiscard]] SlotRange positions_of_row(std::int64_t row, SlotRange slots) const;
  void write_row(const LayerRows& where, const LayerKv& kv);
  void make_frames(std::int64_t layer, std::int64_t row, SlotRange positions);

  mutable std::mutex mutex_;  // over the store
  PageStore store_;
  bool emulates_link_;
  std::vector<PageName> written_;  // since they were last saved
  std::vector<std::uint8_t> hidden_bytes_;
  at::Tensor hidden_;  // what hidden_bytes_ says
  std::vector<bool> kept_;
};

}  // namespace kvtool::engine
