#include "engine/cache/paging/page_format.h"

#include "engine/cache/codecs/row_codecs.h"
#include "engine/cache/paging/page_formats.h"
#include "kvtool/base/error.h"
#include "kvtool/cache/kivi_settings.h"

namespace kvtool::engine {
namespace {

// As the model made them: K and V.
class ExactPages : public PageFormat {
 public:
  explicit ExactPages(const RowLayout& layout) : layout_(layout) {}

  [[nodiscard]] PageParts allocate(std::int64_t layer, std::int64_t rows, std::int64_t positions,
                                   const at::TensorOptions& options) const override {
    const auto part = [&](const RowLayout::Entry& entry) {
      return at::empty({rows, entry.heads, positions, entry.dim}, options.dtype(entry.dtype));
    };
    return {part(layout_.key(layer)), part(layout_.value(layer))};
  }
  void encode(std::int64_t, std::int64_t, const LayerKv& rows, const PageParts& page,
              SlotRange within) const override {
    page[0].narrow(1, within.first, within.count).copy_(rows.k, /*non_blocking=*/true);
    page[1].narrow(1, within.first, within.count).copy_(rows.v, /*non_blocking=*/true);
  }
  void decode(std::int64_t, std::int64_t, const PageParts& page, SlotRange within,
              const LayerKv& rows) const override {
    rows.k.copy_(page[0].narrow(1, within.first, within.count), /*non_blocking=*/true);
    rows.v.copy_(page[1].narrow(1, within.first, within.count), /*non_blocking=*/true);
  }
  [[nodiscard]] LayerKv as_kept(std::int64_t layer, std::int64_t, const LayerKv& rows,
                                bool) const override {
    return {rows.k.to(layout_.key(layer).dtype), rows.v.to(layout_.value(layer).dtype)};
  }
  [[nodiscard]] LayerKv shown(std::int64_t, const PageParts& frames) override {
    return {frames[0], frames[1]};
  }

 private:
  const RowLayout& layout_;
};

}  // namespace

std::unique_ptr<PageFormat> make_page_format(const cache::CacheSpec& store, const RowLayout& layout,
                                             const BatchShape& shape, std::int64_t frame_positions,
                                             at::Device device) {
  if (store == cache::CacheSpec()) return std::make_unique<ExactPages>(layout);
  if (store.policy() == "kivi") {
    return make_grouped_pages(cache::kivi_settings(store), layout, shape, frame_positions, device);
  }
  std::unique_ptr<RowCodec> codec = make_row_codec(store);
  if (codec == nullptr) throw_misuse("rows of '" + store.to_string() + "' are not kept in pages");
  return make_coded_pages(std::move(codec), layout, shape, frame_positions, device);
}

}  // namespace kvtool::engine
