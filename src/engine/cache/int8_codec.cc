#include "engine/cache/int8_codec.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <string>

#include "engine/cache/dequantize.h"
#include "kvtool/base/error.h"

namespace kvtool::engine {
namespace {

constexpr double kMaxInteger = 127.0;
// Rows that a thread takes at least.
constexpr std::int64_t kGrainRows = 256;

// Where row `index` of a tensor begins, the last dimension left out, in elements.
std::int64_t offset_of(const at::Tensor& tensor, std::int64_t index) {
  std::int64_t offset = 0;
  for (std::int64_t dim = tensor.dim() - 2; dim >= 0; --dim) {
    offset += index % tensor.size(dim) * tensor.stride(dim);
    index /= tensor.size(dim);
  }
  return offset;
}

void decode_on_cpu(const at::Tensor& codes, const at::Tensor& scales, const at::Tensor& rows) {
  const auto* code = codes.const_data_ptr<std::int8_t>();
  const auto* scale = scales.const_data_ptr<float>();
  auto* out = static_cast<char*>(rows.mutable_data_ptr());
  const std::int64_t dim = rows.size(-1);
  const auto element = static_cast<std::int64_t>(rows.element_size());
  const RowType type = row_type(rows.scalar_type());
  at::parallel_for(0, scales.numel(), kGrainRows, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const std::int8_t* from = code + offset_of(codes, row);
      char* to = out + offset_of(rows, row) * element;
      const float factor = scale[offset_of(scales, row)];
      for (std::int64_t first = 0; first < dim; first += kDequantizeChannels) {
        dequantize(from + first, factor, std::min(kDequantizeChannels, dim - first), type,
                   to + first * element);
      }
    }
  });
}

}  // namespace

std::vector<RowCodec::Plane> Int8Codec::planes(std::int64_t dim) const {
  return {{at::kChar, dim}, {at::kFloat, 1}};
}

void Int8Codec::check(at::ScalarType dtype) const {
  if (dtype == at::kFloat || dtype == at::kHalf || dtype == at::kBFloat16) return;
  throw_incompatible(std::string("the cache int8 keeps rows of 16 or 32 bits, this model makes ") +
                     at::toString(dtype) + ": use the cache contiguous");
}

void Int8Codec::encode(const at::Tensor& rows, const std::vector<at::Tensor>& planes) const {
  const at::Tensor exact = rows.to(at::kFloat);
  const at::Tensor scale = exact.abs().amax(-1, /*keepdim=*/true).div_(kMaxInteger);
  // NaN is 0 / 0 in a row of zeros, or of a row that is not finite: its scale says that.
  planes[0].copy_(exact.div(scale).round_().clamp_(-kMaxInteger, kMaxInteger).nan_to_num_(0.0));
  planes[1].copy_(scale);
}

void Int8Codec::decode(const std::vector<at::Tensor>& planes, const at::Tensor& rows,
                       const at::Tensor& wide) const {
  const auto side_by_side = [](const at::Tensor& tensor) { return tensor.stride(-1) == 1; };
  if (rows.is_cpu() && side_by_side(rows) && side_by_side(planes[0])) {
    decode_on_cpu(planes[0], planes[1], rows);
    return;
  }
  decode_by_tensors(planes, rows, wide);
}

void Int8Codec::decode_by_tensors(const std::vector<at::Tensor>& planes, const at::Tensor& rows,
                                  const at::Tensor& wide) {
  wide.copy_(planes[0]);
  wide.mul_(planes[1]);
  if (!wide.is_same(rows)) rows.copy_(wide);
}

}  // namespace kvtool::engine
