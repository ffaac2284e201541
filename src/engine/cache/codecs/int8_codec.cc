#include "engine/cache/codecs/int8_codec.h"

#include "engine/cache/codecs/dequantize.h"
#include "engine/cache/codecs/rows_on_cpu.h"
#include "engine/cache/kv_cache.h"

namespace kvtool::engine {
namespace {

constexpr double kMaxInteger = 127.0;

}  // namespace

std::vector<RowCodec::Plane> Int8Codec::planes(std::int64_t dim) const {
  return {{at::kChar, dim}, {at::kFloat, 1}};
}

void Int8Codec::check(at::ScalarType dtype) const { check_row_type("int8", dtype); }

void Int8Codec::encode(const at::Tensor& rows, const std::vector<at::Tensor>& planes) const {
  const at::Tensor exact = rows.to(at::kFloat);
  const at::Tensor scale = exact.abs().amax(-1, /*keepdim=*/true).div_(kMaxInteger);
  // NaN is 0 / 0 in a row of zeros, or of a row that is not finite: its scale says that.
  planes[0].copy_(exact.div(scale).round_().clamp_(-kMaxInteger, kMaxInteger).nan_to_num_(0.0));
  planes[1].copy_(scale);
}

void Int8Codec::decode(const std::vector<at::Tensor>& planes, const at::Tensor& rows,
                       const at::Tensor& wide) const {
  if (are_rows_on_cpu(planes[0], rows)) {
    const RowType type = row_type(rows.scalar_type());
    each_row_on_cpu<std::int8_t>(
        planes[0], planes[1], rows,
        [dim = rows.size(-1), type](const std::int8_t* codes, float scale, float* room, void* out) {
          dequantize(codes, scale, dim, type, room, out);
        });
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
