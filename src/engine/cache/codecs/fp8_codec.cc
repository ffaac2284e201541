#include "engine/cache/codecs/fp8_codec.h"

#include <algorithm>
#include <limits>
#include <tuple>

#include "engine/cache/codecs/rows_on_cpu.h"
#include "engine/cache/kv_cache.h"

namespace kvtool::engine {
namespace {

constexpr double kLargestE4m3 = 448.0;
constexpr double kLargestE5m2 = 57344.0;

// The smallest power of two that is not below `values`, which are above 0.
at::Tensor power_of_two_from(const at::Tensor& values) {
  at::Tensor mantissa;
  at::Tensor exponent;
  std::tie(mantissa, exponent) = at::frexp(values);  // mantissa in [0.5, 1)
  return at::ldexp(at::ones_like(values), exponent.sub(mantissa.eq(0.5).to(exponent.dtype())));
}

}  // namespace

Fp8Codec::Fp8Codec(const Settings& settings) : settings_(settings) {
  const at::Tensor numbers =
      at::arange(256, at::kShort).to(at::kByte).view(settings.type).to(at::kFloat);
  std::copy_n(numbers.const_data_ptr<float>(), numbers_.size(), numbers_.begin());
}

std::vector<RowCodec::Plane> Fp8Codec::planes(std::int64_t dim) const {
  return {{settings_.type, dim}, {at::kFloat, 1, /*shared=*/true}};
}

void Fp8Codec::check(at::ScalarType dtype) const { check_row_type("fp8", dtype); }

double Fp8Codec::largest() const {
  return settings_.type == at::kFloat8_e4m3fn ? kLargestE4m3 : kLargestE5m2;
}

void Fp8Codec::measure(const at::Tensor& prompt, const std::vector<at::Tensor>& planes) const {
  if (settings_.scale) return;
  const at::Tensor sizes = prompt.to(at::kFloat).abs().nan_to_num_(0.0, 0.0, 0.0);
  at::Tensor most = sizes.amax({-2, -1}, /*keepdim=*/true);
  if (!settings_.per_head) most = most.amax().expand_as(most);
  constexpr double kLeast = std::numeric_limits<float>::min();
  const at::Tensor scale = power_of_two_from(most.div(largest()).clamp_min_(kLeast));
  planes[1].narrow(-2, 0, 1).copy_(at::where(most.gt(0.0), scale, at::ones_like(scale)));
}

void Fp8Codec::encode(const at::Tensor& rows, const std::vector<at::Tensor>& planes) const {
  const at::Tensor exact = rows.to(at::kFloat).div(planes[1]);
  at::Tensor kept = exact.clamp(-largest(), largest());  // NaN stays
  const double infinite = settings_.type == at::kFloat8_e5m2
                              ? std::numeric_limits<double>::infinity()
                              : std::numeric_limits<double>::quiet_NaN();
  kept = at::where(exact.isinf(), exact.sign().mul_(infinite), kept);
  planes[0].copy_(kept.to(settings_.type));
}

void Fp8Codec::decode(const std::vector<at::Tensor>& planes, const at::Tensor& rows,
                      const at::Tensor& wide) const {
  if (are_rows_on_cpu(planes[0], rows)) {
    const RowType type = row_type(rows.scalar_type());
    each_row_on_cpu<std::uint8_t>(
        planes[0], planes[1], rows,
        [this, dim = rows.size(-1), type](const std::uint8_t* codes, float scale, float* room,
                                          void* out) {
          dequantize(codes, numbers_, scale, dim, type, room, out);
        });
    return;
  }
  decode_by_tensors(planes, rows, wide);
}

void Fp8Codec::decode_by_tensors(const std::vector<at::Tensor>& planes, const at::Tensor& rows,
                                 const at::Tensor& wide) {
  wide.copy_(planes[0]);
  wide.mul_(planes[1]);
  if (!wide.is_same(rows)) rows.copy_(wide);
}

}  // namespace kvtool::engine
