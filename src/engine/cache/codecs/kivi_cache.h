// The policy "kivi": recent rows as the model made them, older ones in groups of 2 to 8 bits
// (docs/caches.md).
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "engine/cache/codecs/recent_rows.h"
#include "engine/cache/codecs/settled_part.h"
#include "engine/cache/row_buffer.h"
#include "engine/cache/stored_cache.h"
#include "engine/cache/work_space.h"
#include "kvtool/cache/kivi_settings.h"

namespace kvtool::engine {

// Which positions are quantized depends on the number of positions alone (settled()). A group is
// quantized once, when a pass begins in which it is old enough, so that a pass ends with the rows
// that it made as it made them: they are what is recorded, compared and injected.
//
// Positions of a row: its sinks, coded groups up to settled_, then whole rows, in `recent_`.
class KiviCache : public StoredCache {
 public:
  // Errors: kIncompatible for rows of 8 bits, kUsage for a layer that the model lacks. `layout` and
  // `shape` outlive the cache.
  KiviCache(const cache::KiviSettings& settings, const RowLayout& layout, const BatchShape& shape,
            at::Device device);

  void clear(const BatchShape& shape) override;
  void begin(SlotRange slots) override;

  void read_slot(std::int64_t slot, const at::Tensor& deltas) const override;
  // Error kMisuse, as of write(), for rows that have been quantized or that there is no room for.
  void write_slot(std::int64_t slot, const at::Tensor& deltas, const RowLayout& from,
                  std::span<const std::int64_t> rows) override;
  void read(const LayerRows& where, const LayerKv& kv) const override;
  void write(const LayerRows& where, const LayerKv& kv) override;
  [[nodiscard]] bool is_append_only() const override { return false; }
  [[nodiscard]] std::optional<SlotRange> settled(std::int64_t positions) const override;
  [[nodiscard]] std::int64_t settled_layers() const override { return coded_layers_; }
  [[nodiscard]] LayerKv as_settled(std::int64_t layer, const LayerKv& kv) const override;
  [[nodiscard]] cache::CacheUse use() const override;

 protected:
  void take_in(const AttentionCall& call) override;
  [[nodiscard]] LayerKv seen(std::int64_t layer, SlotRange slots) override;

 private:
  struct SettledLayer {
    SettledPart k;
    SettledPart v;

    [[nodiscard]] bool is_coded() const { return k.is_coded() || v.is_coded(); }
  };
  [[nodiscard]] const SettledLayer& settled_layer(std::int64_t layer) const {
    return layers_[static_cast<std::size_t>(layer)];
  }
  // As KiviSettings::settled().
  [[nodiscard]] std::int64_t settled_end(std::int64_t positions) const;
  [[nodiscard]] std::int64_t first_whole_slot(std::int64_t row) const;
  // Error kMisuse unless `slots` of `rows` can be written.
  void check_writable(SlotRange slots, std::span<const std::int64_t> rows) const;

  // Quantizes what is old enough in a pass over `next`, and was there before it.
  void settle(std::int64_t row, SlotRange next);
  // Fills `kv` [heads, slots, dim] on the device; of padding, zeros.
  void fill(const LayerRows& where, const LayerKv& kv) const;
  // What of `where` is before the whole rows: padding, sinks, coded groups.
  void fill_old(const LayerRows& where, const LayerKv& kv) const;
  [[nodiscard]] std::uint64_t nbytes() const;
  void note_bytes();

  cache::KiviSettings settings_;
  std::int64_t group_;
  std::int64_t sink_positions_;
  RowBuffer sinks_;  // of rows that have coded groups; by position
  RecentRows recent_;
  std::vector<SettledLayer> layers_;
  std::int64_t coded_layers_ = 0;      // of them, those that keep something in groups
  std::vector<std::int64_t> settled_;  // per row: its first positions, sinks included
  WorkSpace work_;
  std::uint64_t applied_rows_ = 0;
  std::uint64_t peak_bytes_ = 0;
};

}  // namespace kvtool::engine
