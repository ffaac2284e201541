#include "engine/cache/codecs/fp8_codec.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "engine/cache/policies.h"
#include "engine/toy_run.h"
#include "engine/toy_state.h"

namespace kvtool::engine {
namespace {

// Planes of [heads, positions, dim].
std::vector<at::Tensor> planes_of(const Fp8Codec& codec, const at::Tensor& rows) {
  std::vector<at::Tensor> planes;
  for (const RowCodec::Plane& plane : codec.planes(rows.size(2))) {
    planes.push_back(plane.shared
                         ? at::full({rows.size(0), 1, 1}, codec.new_shared(), plane.dtype)
                               .expand({rows.size(0), rows.size(1), 1})
                         : at::empty({rows.size(0), rows.size(1), plane.width}, plane.dtype));
  }
  return planes;
}

struct Kept {
  at::Tensor rows;
  at::Tensor scales;  // [heads]
};

Kept as_kept(const Fp8Codec& codec, const at::Tensor& rows) {
  const std::vector<at::Tensor> planes = planes_of(codec, rows);
  codec.measure(rows, planes);
  codec.encode(rows, planes);
  at::Tensor back = at::empty_like(rows);
  codec.decode(planes, back, at::empty(rows.sizes(), at::kFloat));
  return {back, planes[1].select(1, 0).select(1, 0).clone()};
}

// The nearest number of a type with `bits` of significand behind the point, exponents from
// `least_exponent` on and nothing above `largest`; ties to even.
float nearest(float x, int bits, int least_exponent, float largest) {
  if (x == 0.0F) return x;
  const int exponent = std::max(std::ilogb(x), least_exponent);
  const float unit = std::ldexp(1.0F, exponent - bits);
  const float rounded = std::nearbyint(x / unit) * unit;
  return std::fmin(std::fmax(rounded, -largest), largest);
}

TEST(Fp8, KeepsEachNumberAsTheFormulaSays) {
  at::manual_seed(3);
  const at::Tensor rows = at::randn({2, 300, 16}).mul(at::randn({2, 300, 1}).mul(4).exp());
  for (const bool e4m3 : {true, false}) {
    for (const bool per_head : {true, false}) {
      const Fp8Codec codec({e4m3 ? at::kFloat8_e4m3fn : at::kFloat8_e5m2, per_head, {}});
      const Kept kept = as_kept(codec, rows);
      const float largest = e4m3 ? 448.0F : 57344.0F;
      for (std::int64_t head = 0; head < 2; ++head) {
        const at::Tensor measured = per_head ? rows.select(0, head) : rows;
        const float most = measured.abs().max().item<float>();
        const float scale = std::exp2(std::ceil(std::log2(most / largest)));
        EXPECT_EQ(kept.scales.select(0, head).item<float>(), scale);
        const at::Tensor own = rows.select(0, head).reshape({-1});
        const at::Tensor back = kept.rows.select(0, head).reshape({-1});
        for (std::int64_t i = 0; i < own.numel(); ++i) {
          const float x = own.const_data_ptr<float>()[i];
          const float q = nearest(x / scale, e4m3 ? 3 : 2, e4m3 ? -6 : -14, largest);
          ASSERT_EQ(back.const_data_ptr<float>()[i], q * scale) << x;
        }
      }
    }
  }
}

TEST(Fp8, AGivenScaleIsTakenAsItIs) {
  const Fp8Codec codec({at::kFloat8_e4m3fn, true, 0.25});
  const at::Tensor rows = at::tensor({1.0, 3.1, -200.0, 0.0}, at::kFloat).view({1, 1, 4});
  // 3.1 / 0.25 = 12.4, between 12 and 13; -200 / 0.25 is beyond -448.
  EXPECT_TRUE(as_kept(codec, rows)
                  .rows.equal(at::tensor({1.0, 3.0, -112.0, 0.0}, at::kFloat).view({1, 1, 4})));
}

TEST(Fp8, WhatIsNotFiniteSpoilsNoScale) {
  const double infinity = std::numeric_limits<double>::infinity();
  for (const bool e4m3 : {true, false}) {
    const Fp8Codec codec({e4m3 ? at::kFloat8_e4m3fn : at::kFloat8_e5m2, true, {}});
    const at::Tensor rows =
        at::tensor({1.0, infinity, -infinity, std::nan(""), 2.0, 0.5}, at::kFloat).view({1, 1, 6});
    const at::Tensor kept = as_kept(codec, rows).rows.view({6});
    EXPECT_EQ(kept[0].item<float>(), 1.0F);
    EXPECT_EQ(kept[4].item<float>(), 2.0F);
    for (const std::int64_t wrong : {1, 2, 3}) {
      EXPECT_FALSE(std::isfinite(kept[wrong].item<float>()));
    }
    EXPECT_EQ(std::isinf(kept[1].item<float>()), !e4m3);
  }
}

TEST(Fp8, TensorsDecodeToTheSameBits) {
  at::manual_seed(4);
  for (const at::ScalarType type : {at::kFloat8_e4m3fn, at::kFloat8_e5m2}) {
    const Fp8Codec codec({type, true, {}});
    for (const at::ScalarType dtype : {at::kFloat, at::kHalf, at::kBFloat16}) {
      const at::Tensor rows = at::randn({3, 40, 70}).mul(at::randn({3, 1, 70}).exp()).to(dtype);
      const std::vector<at::Tensor> planes = planes_of(codec, rows);
      codec.measure(rows, planes);
      codec.encode(rows, planes);
      const at::Tensor by_loop = at::zeros({3, 60, 70}, dtype).narrow(1, 9, 40);
      const at::Tensor by_tensors = at::zeros({3, 40, 70}, dtype);
      codec.decode(planes, by_loop, by_loop);
      Fp8Codec::decode_by_tensors(planes, by_tensors, at::empty({3, 40, 70}, at::kFloat));
      EXPECT_TRUE(by_loop.equal(by_tensors));
    }
  }
}

// Steps are kept with the scale of the prompt, injected prompts bring their own; alike in parallel.
TEST(Fp8Run, InParallelEachStepSeesItsOwnState) {
  TorchModel model = toy_model();
  const Rows recorded = record(model, 12);
  for (const std::string spec : {"fp8", "fp8:type=e5m2,per=tensor", "fp8:scale=0.01"}) {
    for (const format::ReplayMode mode :
         {format::ReplayMode::kInject, format::ReplayMode::kForced}) {
      ReplayOptions options;
      options.mode = mode;
      options.kv_cache = cache::CacheSpec::parse(spec);
      const Replayed steps = run(model, recorded, options);
      options.parallel = true;
      const Replayed at_once = run(model, recorded, options);
      EXPECT_EQ(at_once.result.cache_use.applied_rows > 0, true);
      for (std::size_t row = 0; row < 2; ++row) {
        for (std::int64_t layer = 0; layer < 2; ++layer) {
          const at::Tensor one = told_state(*at_once.rows[row], layer, true);
          const at::Tensor other = told_state(*steps.rows[row], layer, true);
          // Noise of float32 may move a number to its neighbour.
          EXPECT_LT(one.ne(other).to(at::kFloat).mean().item<float>(), 0.05F) << spec;
          EXPECT_TRUE(at::allclose(one, other, 0.3, 1e-2)) << spec;
        }
      }
    }
  }
}

}  // namespace
}  // namespace kvtool::engine
