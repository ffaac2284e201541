#include "engine/cache/codecs/coded_rows.h"

namespace kvtool::engine {

at::Tensor new_plane(const RowCodec& codec, const RowCodec::Plane& plane,
                     std::vector<std::int64_t> sizes, at::Device device) {
  const auto options = at::TensorOptions(plane.dtype).device(device);
  sizes.push_back(plane.width);
  if (!plane.shared) return at::empty(sizes, options);
  std::vector<std::int64_t> once = sizes;
  once[once.size() - 2] = 1;
  return at::full(once, codec.new_shared(), options).expand(sizes);
}

at::Tensor round_trip(const RowCodec& codec, const at::Tensor& rows, const at::Tensor& shared,
                      bool is_prompt) {
  std::vector<at::Tensor> planes;
  for (const RowCodec::Plane& plane : codec.planes(rows.size(-1))) {
    planes.push_back(
        new_plane(codec, plane, {rows.sizes().begin(), rows.sizes().end() - 1}, rows.device()));
    if (plane.shared) planes.back().narrow(-2, 0, 1).copy_(shared);
  }
  if (is_prompt) codec.measure(rows, planes);
  codec.encode(rows, planes);
  at::Tensor kept = at::empty(rows.sizes(), rows.options());
  codec.decode(planes, kept, at::empty(rows.sizes(), rows.options().dtype(at::kFloat)));
  return kept;
}

}  // namespace kvtool::engine
