// The policy "paged": pages of positions, some on the device, all others in host memory
// (docs/caches.md).
#pragma once

#include <ATen/ATen.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "engine/cache/codecs/recent_rows.h"
#include "engine/cache/paging/page_format.h"
#include "engine/cache/paging/page_store.h"
#include "engine/cache/paging/partial_attention.h"
#include "engine/cache/selection/page_selector.h"
#include "engine/cache/stored_cache.h"
#include "kvtool/cache/kivi_settings.h"

namespace kvtool::engine {

// With fewer frames than pages. A step attends over the pages that have a frame, then over those
// that it has to fetch, as many at a time as there is room for, and merges the parts; the result
// does not depend on the order but for rounding. A prompt is attended at once.
//
// Rows are kept as `settings.store` says. Where that is in groups, pages begin with a row's first
// position, and what is not settled is whole, beside them.
//
// Threads: read(), read_slot() and use() may be called on any while a pass runs.
class PagedCache : public StoredCache {
 public:
  // `layout` and `shape` outlive the cache. frames: of each row and layer. selector: of pages of
  // the same size; null: a query sees everything.
  PagedCache(const cache::PagedSettings& settings, std::int64_t frames, const RowLayout& layout,
             const BatchShape& shape, at::Device device,
             std::unique_ptr<PageSelector> selector = nullptr);

  void clear(const BatchShape& shape) override;
  void begin(SlotRange slots) override;

  void read(const LayerRows& where, const LayerKv& kv) const override;
  void write(const LayerRows& where, const LayerKv& kv) override;
  [[nodiscard]] LayerKv as_kept(const LayerRows& where, const LayerKv& kv) const override;
  [[nodiscard]] bool is_append_only() const override { return recent_ == nullptr; }
  [[nodiscard]] std::optional<SlotRange> settled(std::int64_t positions) const override;
  [[nodiscard]] LayerKv as_settled(std::int64_t layer, const LayerKv& kv) const override;
  [[nodiscard]] cache::CacheUse use() const override;

 protected:
  void take_in(const AttentionCall& call) override;
  // A copy of all of them. With the mutex.
  [[nodiscard]] LayerKv seen(std::int64_t layer, SlotRange slots) override;
  at::Tensor attend_held(const AttentionCall& call) override;

 private:
  // What of its positions the query of one row sees in a step.
  struct Sight {
    std::int64_t first = 0;
    std::int64_t end = 0;
    // Per K/V head and page, where the query chooses.
    std::optional<std::vector<std::vector<bool>>> chosen;
    // Per page an estimate of its share of the attention, where that is of use.
    std::vector<double> shares = {};

    [[nodiscard]] bool sees(std::int64_t page) const;
    [[nodiscard]] bool sees(std::int64_t head, std::int64_t page) const {
      return !chosen || (*chosen)[static_cast<std::size_t>(head)][static_cast<std::size_t>(page)];
    }
  };
  // Of one row in a step, of the positions that are in pages.
  struct RowPages {
    Sight sight;
    std::int64_t end = 0;               // position
    std::vector<std::int64_t> missing;  // that it sees and that have no frame, ascending
    std::vector<bool> shown;            // per page: attended now
  };

  at::Tensor attend_step(const AttentionCall& call);
  // Tells what is known of the pages before some of them have to go.
  void observe(std::int64_t layer, std::int64_t row, const RowPages& pages);
  // What the next step may use of a layer comes while others are computed.
  void fetch_ahead(std::int64_t layer, std::int64_t row, const RowPages& pages);
  [[nodiscard]] std::vector<Sight> sights(const AttentionCall& call);
  // Of rows first..., which stand at the same position and choose.
  void choose(const AttentionCall& call, std::span<Sight> rows, std::int64_t first);
  [[nodiscard]] RowPages pages_of(std::int64_t layer, std::int64_t row, Sight sight);
  // Of the pages of a step the last, which may be written yet.
  [[nodiscard]] std::size_t last_page(const RowPages& pages) const {
    return static_cast<std::size_t>((pages.end - 1) / store_.page_size());
  }
  // Not read in any case: see cache::PageTraffic.
  [[nodiscard]] bool is_inner(const Sight& sight, std::int64_t page) const;
  // Fetches of `missing` as many as fit, and shows them alone.
  void fetch_some(std::int64_t layer, std::int64_t row, RowPages& pages);
  void attend_pages(const AttentionCall& call, std::vector<RowPages>& rows,
                    PartialAttention& attention);
  void attend_recent(const AttentionCall& call, std::span<const Sight> rows,
                     PartialAttention& attention);
  // Of what is attended `count` keys, from the key `first` on, have the positions of a row from
  // `position` on, in one page.
  struct KeyBlock {
    std::int64_t row = 0;
    std::int64_t first = 0;
    std::int64_t count = 0;
    std::int64_t position = 0;

    friend bool operator==(const KeyBlock&, const KeyBlock&) = default;
  };
  // What is not seen of `keys` where all rows see the whole of some blocks.
  struct Mask {
    std::int64_t keys = 0;
    std::vector<KeyBlock> blocks;
    at::Tensor hidden;
  };
  // Of the pages that are attended now, what a row could see.
  [[nodiscard]] std::vector<KeyBlock> blocks_in_frames(std::int64_t layer,
                                                       const std::vector<RowPages>& rows) const;
  // Of `slots` beside the pages.
  [[nodiscard]] std::vector<KeyBlock> recent_blocks(std::span<const Sight> rows,
                                                    SlotRange slots) const;
  // bool [B, 1 or heads, 1, keys]: all but the blocks, and of these what a row has not chosen.
  at::Tensor hidden(std::span<const Sight> rows, std::int64_t heads, std::int64_t keys,
                    std::vector<KeyBlock> blocks);

  // Positions of one row, without its padding.
  [[nodiscard]] SlotRange positions_of_row(std::int64_t row, SlotRange slots) const {
    const std::int64_t padding = shape().padding(row);
    const std::int64_t first = std::max<std::int64_t>(0, slots.first - padding);
    return {first, std::max<std::int64_t>(0, slots.end() - padding - first)};
  }
  // Of its positions, the first that is not in a page.
  [[nodiscard]] std::int64_t paged_end(std::int64_t row) const {
    return recent_ ? settled_[static_cast<std::size_t>(row)] : shape().capacity();
  }
  // Positions of one row, wherever they are.
  void read_row(std::int64_t layer, std::int64_t row, SlotRange positions, const LayerKv& kv) const;
  void write_row(const LayerRows& where, const LayerKv& kv);
  void settle(std::int64_t row, SlotRange next);
  void make_frames(std::int64_t layer, std::int64_t row, SlotRange positions, std::int64_t step);
  // What was written since the last time goes to host memory once its page is whole.
  void save_whole_pages(SlotRange next);
  [[nodiscard]] std::uint64_t device_bytes() const {
    return store_.device_bytes() + format_->nbytes() + (recent_ ? recent_->nbytes() : 0) +
           (chooser_ != nullptr ? chooser_->bytes() : 0);
  }

  mutable std::mutex mutex_;  // over everything below, and what StoredCache keeps
  cache::PagedSettings settings_;
  std::optional<cache::KiviSettings> groups_;
  std::unique_ptr<PageFormat> format_;
  PageStore store_;
  std::unique_ptr<RecentRows> recent_;  // of a cache whose rows are settled in groups
  std::vector<std::int64_t> settled_;   // likewise, per row: its first positions
  PageSelector* chooser_;
  std::vector<PageName> written_;  // since they were last saved
  std::vector<Mask> masks_;        // of the step: layers mostly show the same
  std::vector<bool> kept_;
  std::uint64_t applied_rows_ = 0;  // of one layer
  std::uint64_t peak_bytes_ = 0;    // on the device
  std::uint64_t most_visible_ = 0;  // positions in pages that one step could see
  double write_seconds_ = 0.0;      // that steps waited for pages to be in host memory
};

}  // namespace kvtool::engine
