#include "engine/cache/paging/page_format.h"

#include <algorithm>
#include <array>

#include "engine/cache/codecs/group_codec.h"
#include "engine/cache/codecs/row_codecs.h"
#include "engine/cache/work_space.h"
#include "kvtool/base/error.h"
#include "kvtool/cache/kivi_settings.h"

namespace kvtool::engine {
namespace {

at::Tensor room_of(std::int64_t rows, const RowLayout::Entry& entry, std::int64_t positions,
                   std::int64_t width, at::ScalarType dtype, const at::TensorOptions& options) {
  return at::empty({rows, entry.heads, positions, width}, options.dtype(dtype));
}

// As the model made them: K and V.
class ExactPages : public PageFormat {
 public:
  explicit ExactPages(const RowLayout& layout) : layout_(layout) {}

  [[nodiscard]] PageParts allocate(std::int64_t layer, std::int64_t rows, std::int64_t positions,
                                   const at::TensorOptions& options) const override {
    const auto part = [&](const RowLayout::Entry& entry) {
      return room_of(rows, entry, positions, entry.dim, entry.dtype, options);
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

// Each row through a codec.
class CodedPages : public PageFormat {
 public:
  CodedPages(std::unique_ptr<RowCodec> codec, const RowLayout& layout, const BatchShape& shape,
             std::int64_t frame_positions, at::Device device)
      : codec_(std::move(codec)),
        layout_(layout),
        work_(layout, shape.rows(), frame_positions, device) {
    for (const RowLayout::Group& group : layout.groups()) codec_->check(group.dtype);
    std::int64_t most = 0;
    for (std::int64_t layer = 0; layer < layout.num_layers(); ++layer) {
      std::array<at::Tensor, 2> scales;
      for (std::size_t part = 0; part < scales.size(); ++part) {
        const RowLayout::Entry& entry = this->entry(layer, part);
        scales[part] = new_scales({shape.rows(), entry.heads}, entry, device);
        if (entry.dtype == at::kFloat) continue;
        most = std::max(most, shape.rows() * entry.heads * frame_positions * entry.dim);
      }
      scales_.push_back(std::move(scales));
    }
    wide_ = at::empty({most}, at::TensorOptions(at::kFloat).device(device));
  }

  [[nodiscard]] PageParts allocate(std::int64_t layer, std::int64_t rows, std::int64_t positions,
                                   const at::TensorOptions& options) const override {
    PageParts parts;
    for (std::size_t part = 0; part < 2; ++part) {
      for (const RowCodec::Plane& plane : planes_of(layer, part)) {
        if (plane.shared) continue;
        parts.push_back(
            room_of(rows, entry(layer, part), positions, plane.width, plane.dtype, options));
      }
    }
    return parts;
  }

  void clear() override {
    for (const std::array<at::Tensor, 2>& layer : scales_) {
      for (const at::Tensor& scales : layer) {
        if (scales.defined()) scales.fill_(codec_->new_shared());
      }
    }
  }

  void measure(std::int64_t layer, std::int64_t row, const LayerKv& rows) override {
    for (std::size_t part = 0; part < 2; ++part) {
      const at::Tensor& scales = this->scales(layer, part);
      if (!scales.defined()) continue;
      codec_->measure(typed(rows, layer, part).to(scales.device()),
                      with_scales({}, layer, part, scales.select(0, row)));
    }
  }

  void encode(std::int64_t layer, std::int64_t row, const LayerKv& rows, const PageParts& page,
              SlotRange within) const override {
    for (std::size_t part = 0; part < 2; ++part) {
      const at::Tensor own = typed(rows, layer, part);
      const PageParts target = lines(page, layer, part, within);
      PageParts planes;
      for (const at::Tensor& plane : target) {
        planes.push_back(plane.device() == own.device()
                             ? plane
                             : at::empty(plane.sizes(), plane.options().device(own.device())));
      }
      codec_->encode(own, with_scales(planes, layer, part, scales_of(layer, row, part, own)));
      for (std::size_t index = 0; index < target.size(); ++index) {
        if (!planes[index].is_same(target[index])) target[index].copy_(planes[index]);
      }
    }
  }

  void decode(std::int64_t layer, std::int64_t row, const PageParts& page, SlotRange within,
              const LayerKv& rows) const override {
    for (std::size_t part = 0; part < 2; ++part) {
      const PageParts planes = lines(page, layer, part, within);
      const at::Tensor& target = part == 0 ? rows.k : rows.v;
      const auto options = at::TensorOptions(entry(layer, part).dtype).device(planes[0].device());
      const bool in_place =
          target.device() == planes[0].device() && target.scalar_type() == entry(layer, part).dtype;
      const at::Tensor kept = in_place ? target : at::empty(target.sizes(), options);
      codec_->decode(with_scales(planes, layer, part, scales_of(layer, row, part, planes[0])), kept,
                     at::empty(target.sizes(), options.dtype(at::kFloat)));
      if (!in_place) target.copy_(kept);
    }
  }

  [[nodiscard]] LayerKv as_kept(std::int64_t layer, std::int64_t row, const LayerKv& rows,
                                bool is_prompt) const override {
    const auto round_trip = [&](std::size_t part) {
      const at::Tensor own = typed(rows, layer, part);
      const RowLayout::Entry& entry = this->entry(layer, part);
      at::Tensor scales = scales_of(layer, row, part, own);
      if (scales.defined() && is_prompt) {
        scales = new_scales({own.size(0)}, entry, own.device());
        codec_->measure(own, with_scales({}, layer, part, scales));
      }
      PageParts planes;
      for (const RowCodec::Plane& plane : planes_of(layer, part)) {
        if (plane.shared) continue;
        planes.push_back(at::empty({own.size(0), own.size(1), plane.width},
                                   at::TensorOptions(plane.dtype).device(own.device())));
      }
      const PageParts all = with_scales(planes, layer, part, scales);
      codec_->encode(own, all);
      at::Tensor kept = at::empty(own.sizes(), own.options());
      codec_->decode(all, kept, at::empty(own.sizes(), own.options().dtype(at::kFloat)));
      return kept;
    };
    return {round_trip(0), round_trip(1)};
  }

  [[nodiscard]] LayerKv shown(std::int64_t layer, const PageParts& frames) override {
    const LayerKv rows = work_.of_layer(layer);
    for (std::size_t part = 0; part < 2; ++part) {
      const at::Tensor& target = part == 0 ? rows.k : rows.v;
      const PageParts planes = of_part(frames, layer, part);
      const at::Tensor wide = target.scalar_type() == at::kFloat
                                  ? target
                                  : wide_.narrow(0, 0, target.numel()).view(target.sizes());
      codec_->decode(with_scales(planes, layer, part, scales(layer, part)), target, wide);
    }
    return rows;
  }

  [[nodiscard]] std::uint64_t nbytes() const override {
    std::uint64_t bytes = work_.nbytes() + wide_.nbytes();
    for (const std::array<at::Tensor, 2>& layer : scales_) {
      for (const at::Tensor& scales : layer) bytes += scales.defined() ? scales.nbytes() : 0;
    }
    return bytes;
  }

 private:
  // part: 0 of K, 1 of V.
  [[nodiscard]] const RowLayout::Entry& entry(std::int64_t layer, std::size_t part) const {
    return part == 0 ? layout_.key(layer) : layout_.value(layer);
  }
  [[nodiscard]] std::vector<RowCodec::Plane> planes_of(std::int64_t layer, std::size_t part) const {
    return codec_->planes(entry(layer, part).dim);
  }
  [[nodiscard]] at::Tensor typed(const LayerKv& rows, std::int64_t layer, std::size_t part) const {
    return (part == 0 ? rows.k : rows.v).to(entry(layer, part).dtype);
  }
  [[nodiscard]] const at::Tensor& scales(std::int64_t layer, std::size_t part) const {
    return scales_[static_cast<std::size_t>(layer)][part];
  }
  // What a plane has that all positions share; undefined where there is none.
  [[nodiscard]] at::Tensor new_scales(std::vector<std::int64_t> sizes,
                                      const RowLayout::Entry& entry, at::Device device) const {
    for (const RowCodec::Plane& plane : codec_->planes(entry.dim)) {
      if (!plane.shared) continue;
      sizes.insert(sizes.end(), {1, plane.width});
      return at::full(sizes, codec_->new_shared(), at::TensorOptions(plane.dtype).device(device));
    }
    return {};
  }
  // Of one row, where `rows` are.
  [[nodiscard]] at::Tensor scales_of(std::int64_t layer, std::int64_t row, std::size_t part,
                                     const at::Tensor& rows) const {
    const at::Tensor& all = scales(layer, part);
    return all.defined() ? all.select(0, row).to(rows.device()) : all;
  }
  // What of a page is K's, or V's.
  [[nodiscard]] PageParts of_part(const PageParts& page, std::int64_t layer,
                                  std::size_t part) const {
    const auto count = [&](std::size_t which) {
      const std::vector<RowCodec::Plane> planes = planes_of(layer, which);
      return std::count_if(planes.begin(), planes.end(),
                           [](const RowCodec::Plane& plane) { return !plane.shared; });
    };
    const auto first = page.begin() + (part == 0 ? 0 : count(0));
    return {first, first + count(part)};
  }
  [[nodiscard]] PageParts lines(const PageParts& page, std::int64_t layer, std::size_t part,
                                SlotRange within) const {
    PageParts some;
    for (const at::Tensor& plane : of_part(page, layer, part)) {
      some.push_back(plane.narrow(1, within.first, within.count));
    }
    return some;
  }
  // In the order of the codec's planes.
  [[nodiscard]] PageParts with_scales(const PageParts& own, std::int64_t layer, std::size_t part,
                                      const at::Tensor& scales) const {
    PageParts all;
    auto next = own.begin();
    for (const RowCodec::Plane& plane : planes_of(layer, part)) {
      if (!plane.shared) {
        all.push_back(next == own.end() ? at::Tensor() : *next++);
        continue;
      }
      std::vector<std::int64_t> sizes(scales.sizes().begin(), scales.sizes().end());
      if (!own.empty()) sizes[sizes.size() - 2] = own.front().size(-2);
      all.push_back(scales.expand(sizes));
    }
    return all;
  }

  std::unique_ptr<RowCodec> codec_;
  const RowLayout& layout_;
  WorkSpace work_;
  at::Tensor wide_;                                // float32, of the largest part
  std::vector<std::array<at::Tensor, 2>> scales_;  // [B, heads, 1, width], of K and of V
};

// Groups of 2 to 8 bits: codes, scales and zeros of K, then those of V.
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
    const auto round_trip = [](const GroupCodec& codec, const at::Tensor& exact) {
      const CodedGroups coded =
          codec.allocate({exact.size(0)}, exact.size(1), exact.size(2), exact.device());
      codec.encode(exact, coded);
      at::Tensor kept = at::empty_like(exact, at::MemoryFormat::Contiguous);
      codec.decode(coded, 0, kept);
      return kept;
    };
    return {round_trip(keys_, rows.k.to(layout_.key(layer).dtype)),
            round_trip(values_, rows.v.to(layout_.value(layer).dtype))};
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

std::unique_ptr<PageFormat> make_page_format(const cache::CacheSpec& store, const RowLayout& layout,
                                             const BatchShape& shape, std::int64_t frame_positions,
                                             at::Device device) {
  if (store == cache::CacheSpec()) return std::make_unique<ExactPages>(layout);
  if (store.policy() == "kivi") {
    return std::make_unique<GroupedPages>(cache::kivi_settings(store), layout, shape,
                                          frame_positions, device);
  }
  std::unique_ptr<RowCodec> codec = make_row_codec(store);
  if (codec == nullptr) throw_misuse("rows of '" + store.to_string() + "' are not kept in pages");
  return std::make_unique<CodedPages>(std::move(codec), layout, shape, frame_positions, device);
}

}  // namespace kvtool::engine
