// Pages whose rows are kept each through a codec.
#include <algorithm>
#include <array>

#include "engine/cache/codecs/coded_rows.h"
#include "engine/cache/paging/page_formats.h"
#include "engine/cache/work_space.h"

namespace kvtool::engine {
namespace {

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
        for (const RowCodec::Plane& plane : planes_of(layer, part)) {
          if (!plane.shared) continue;
          scales[part] = new_plane(*codec_, plane, {shape.rows(), entry.heads, 1}, device);
        }
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
        parts.push_back(at::empty({rows, entry(layer, part).heads, positions, plane.width},
                                  options.dtype(plane.dtype)));
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
    const auto kept = [&](std::size_t part) {
      const at::Tensor own = typed(rows, layer, part);
      return round_trip(*codec_, own, scales_of(layer, row, part, own), is_prompt);
    };
    return {kept(0), kept(1)};
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

}  // namespace

std::unique_ptr<PageFormat> make_coded_pages(std::unique_ptr<RowCodec> codec,
                                             const RowLayout& layout, const BatchShape& shape,
                                             std::int64_t frame_positions, at::Device device) {
  return std::make_unique<CodedPages>(std::move(codec), layout, shape, frame_positions, device);
}

}  // namespace kvtool::engine
