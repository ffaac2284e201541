// Pages whose rows are kept in groups of 2 to 8 bits.
#include "engine/cache/codecs/group_codec.h"
#include "engine/cache/paging/page_formats.h"
#include "engine/cache/work_space.h"

namespace kvtool::engine {
namespace {

// Codes, scales and zeros of K, then those of V.
class GroupedPages : public PageFormat {
 public:
  GroupedPages(const cache::KiviSettings& settings, const RowLayout& layout,
               const BatchShape& shape, std::int64_t frame_positions, at::Device device)
      : layout_(layout),
        keys_(GroupAxis::kPositions, settings.key_bits, static_cast<std::int64_t>(settings.group)),
        values_(GroupAxis::kChannels, settings.value_bits,
                static_cast<std::int64_t>(settings.group)),
        work_(layout, shape.rows(), frame_positions, device) {
    for (const RowLayout::Group& group : layout.groups()) check_row_type("kivi", group.dtype);
  }

  [[nodiscard]] PageParts allocate(std::int64_t layer, std::int64_t rows, std::int64_t positions,
                                   const at::TensorOptions& options) const override {
    const RowLayout::Entry& key = layout_.key(layer);
    const RowLayout::Entry& value = layout_.value(layer);
    PageParts parts;
    for (const CodedGroups& coded :
         {keys_.allocate({rows, key.heads}, positions, key.dim, options.device()),
          values_.allocate({rows, value.heads}, positions, value.dim, options.device())}) {
      for (const at::Tensor& part : {coded.codes, coded.scales, coded.zeros}) {
        parts.push_back(options.pinned_memory() ? part.pin_memory() : part);
      }
    }
    return parts;
  }
  void encode(std::int64_t, std::int64_t, const LayerKv& rows, const PageParts& page,
              SlotRange within) const override {
    encode_part(keys_, rows.k, keys_of(page), within);
    encode_part(values_, rows.v, values_of(page), within);
  }
  void decode(std::int64_t layer, std::int64_t, const PageParts& page, SlotRange within,
              const LayerKv& rows) const override {
    decode_part(keys_, keys_of(page), within, layout_.key(layer), rows.k);
    decode_part(values_, values_of(page), within, layout_.value(layer), rows.v);
  }
  [[nodiscard]] LayerKv as_kept(std::int64_t layer, std::int64_t, const LayerKv& rows,
                                bool) const override {
    return {keys_.round_trip(rows.k.to(layout_.key(layer).dtype)),
            values_.round_trip(rows.v.to(layout_.value(layer).dtype))};
  }
  [[nodiscard]] LayerKv shown(std::int64_t layer, const PageParts& frames) override {
    const LayerKv rows = work_.of_layer(layer);
    for (std::int64_t row = 0; row < rows.k.size(0); ++row) {
      PageParts own;
      for (const at::Tensor& part : frames) own.push_back(part.select(0, row));
      keys_.decode(keys_of(own), 0, rows.k.select(0, row));
      values_.decode(values_of(own), 0, rows.v.select(0, row));
    }
    return rows;
  }
  [[nodiscard]] std::uint64_t nbytes() const override { return work_.nbytes(); }

 private:
  static CodedGroups keys_of(const PageParts& page) { return {page[0], page[1], page[2]}; }
  static CodedGroups values_of(const PageParts& page) { return {page[3], page[4], page[5]}; }

  static void encode_part(const GroupCodec& codec, const at::Tensor& rows, const CodedGroups& page,
                          SlotRange within) {
    const CodedGroups target = codec.part(page, within.first, within.count);
    if (rows.device() == page.codes.device()) {
      codec.encode(rows, target);
      return;
    }
    const CodedGroups coded =
        codec.allocate({rows.size(0)}, rows.size(1), rows.size(2), rows.device());
    codec.encode(rows, coded);
    target.codes.copy_(coded.codes);
    target.scales.copy_(coded.scales);
    target.zeros.copy_(coded.zeros);
  }
  static void decode_part(const GroupCodec& codec, const CodedGroups& page, SlotRange within,
                          const RowLayout::Entry& entry, const at::Tensor& rows) {
    const auto options = at::TensorOptions(entry.dtype).device(page.codes.device());
    const bool in_place = rows.device() == page.codes.device() && rows.scalar_type() == entry.dtype;
    const at::Tensor kept = in_place ? rows : at::empty(rows.sizes(), options);
    codec.decode(page, within.first, kept);
    if (!in_place) rows.copy_(kept);
  }

  const RowLayout& layout_;
  GroupCodec keys_;
  GroupCodec values_;
  WorkSpace work_;
};

}  // namespace

std::unique_ptr<PageFormat> make_grouped_pages(const cache::KiviSettings& settings,
                                               const RowLayout& layout, const BatchShape& shape,
                                               std::int64_t frame_positions, at::Device device) {
  return std::make_unique<GroupedPages>(settings, layout, shape, frame_positions, device);
}

}  // namespace kvtool::engine
