// How the rows of pages are kept: what a page of a paged cache consists of.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/batch_shape.h"
#include "engine/cache/kv_cache.h"
#include "engine/row_layout.h"
#include "kvtool/cache/cache_spec.h"

namespace kvtool::engine {

// Of some positions in a layer: tensors [.., heads, lines, width], first those of K, then those of
// V. A line is one position, or a group of them.
using PageParts = std::vector<at::Tensor>;

class PageFormat {
 public:
  virtual ~PageFormat() = default;

  // As new: nothing was measured.
  virtual void clear() {}

  // Of `positions` in each of `rows` batch rows, [rows, heads, lines, width], not filled. Zeros
  // read as finite numbers.
  [[nodiscard]] virtual PageParts allocate(std::int64_t layer, std::int64_t rows,
                                           std::int64_t positions,
                                           const at::TensorOptions& options) const = 0;

  // `rows` [heads, positions, dim] begin at a row's first position: scales may be taken from them.
  virtual void measure(std::int64_t, std::int64_t, const LayerKv&) {}

  // Positions `within` a page of one row, [heads, lines, width], on any device, as `rows` [heads,
  // positions, dim] are. Of a page that groups positions, whole groups are encoded.
  virtual void encode(std::int64_t layer, std::int64_t row, const LayerKv& rows,
                      const PageParts& page, SlotRange within) const = 0;
  virtual void decode(std::int64_t layer, std::int64_t row, const PageParts& page, SlotRange within,
                      const LayerKv& rows) const = 0;

  // What encode() and decode() would make of `rows`, which are a row's prompt or not.
  [[nodiscard]] virtual LayerKv as_kept(std::int64_t layer, std::int64_t row, const LayerKv& rows,
                                        bool is_prompt) const = 0;

  // What queries see of the device's frames, allocate() of so many: [B, heads, positions, dim] in
  // the model's type, until the next call.
  [[nodiscard]] virtual LayerKv shown(std::int64_t layer, const PageParts& frames) = 0;

  // Beside the pages, on the device.
  [[nodiscard]] virtual std::uint64_t nbytes() const { return 0; }
};

// Of the policy `store`, with frames of `frame_positions` for each batch row. `layout` and `shape`
// outlive it. Error kMisuse for a policy whose rows are not kept in pages.
[[nodiscard]] std::unique_ptr<PageFormat> make_page_format(const cache::CacheSpec& store,
                                                           const RowLayout& layout,
                                                           const BatchShape& shape,
                                                           std::int64_t frame_positions,
                                                           at::Device device);

}  // namespace kvtool::engine
