// The policy int8 against a second computation that shares no code with it: rows number by
// number with the C library, attention by its definition over rows that were never stored
// as integers.
#include "engine/cache/codecs/int8_codec.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <vector>

#include "engine/batch_run.h"
#include "engine/cache/policies.h"
#include "engine/forward_pass.h"
#include "engine/toy_module.h"

namespace kvtool::engine {
namespace {

// float32 [.., dim], as int8 keeps it.
at::Tensor quantized_and_back(const at::Tensor& rows) {
  at::Tensor result = rows.contiguous().clone();
  const std::int64_t dim = result.size(-1);
  float* data = result.data_ptr<float>();
  for (std::int64_t first = 0; first < result.numel(); first += dim) {
    float largest = 0.0F;
    for (std::int64_t i = 0; i < dim; ++i) largest = std::max(largest, std::fabs(data[first + i]));
    const float scale = largest / 127.0F;
    for (std::int64_t i = 0; i < dim; ++i) {
      const float integer = scale > 0.0F ? std::nearbyint(data[first + i] / scale) : 0.0F;
      data[first + i] = std::fmin(std::fmax(integer, -127.0F), 127.0F) * scale;
    }
  }
  return result;
}

// Concatenates what it is given and computes in float64.
class PlainCache : public CachePolicy {
 public:
  explicit PlainCache(std::size_t layers) : keys_(layers), values_(layers) {}

  at::Tensor attend(const AttentionCall& call) override {
    at::Tensor& keys = keys_[static_cast<std::size_t>(call.layer)];
    at::Tensor& values = values_[static_cast<std::size_t>(call.layer)];
    append(keys, quantized_and_back(call.k));
    append(values, quantized_and_back(call.v));
    const std::int64_t queries = call.q.size(2);
    const std::int64_t past = keys.size(2) - queries;
    at::Tensor scores = at::matmul(call.q.to(at::kDouble), keys.transpose(2, 3)).mul_(call.scale);
    for (std::int64_t i = 0; i < queries; ++i) {
      scores.select(2, i).narrow(2, past + i + 1, queries - i - 1).fill_(-INFINITY);
    }
    return at::matmul(at::softmax(scores, -1), values)
        .to(call.v.scalar_type())
        .transpose(1, 2)
        .contiguous();
  }

 private:
  static void append(at::Tensor& all, const at::Tensor& rows) {
    const at::Tensor wide = rows.to(at::kDouble);
    all = all.defined() ? at::cat({all, wide}, 2) : wide;
  }

  std::vector<at::Tensor> keys_;
  std::vector<at::Tensor> values_;
};

TEST(Int8, TensorsDecodeToTheSameBits) {
  at::manual_seed(4);
  const Int8Codec codec;
  for (const at::ScalarType dtype : {at::kFloat, at::kHalf, at::kBFloat16}) {
    for (const std::int64_t dim : {6, 64, 300}) {
      const at::Tensor rows = at::randn({2, 3, 40, dim}).to(dtype);
      std::vector<at::Tensor> planes;
      for (const RowCodec::Plane& plane : codec.planes(dim)) {
        // Slots of a longer buffer.
        planes.push_back(at::empty({2, 3, 90, plane.width}, plane.dtype).narrow(2, 5, 40));
      }
      codec.encode(rows, planes);
      const at::Tensor by_loop = at::zeros({2, 3, 60, dim}, dtype).narrow(2, 9, 40);
      const at::Tensor by_tensors = at::zeros({2, 3, 40, dim}, dtype);
      codec.decode(planes, by_loop, by_loop);
      Int8Codec::decode_by_tensors(planes, by_tensors, at::empty({2, 3, 40, dim}, at::kFloat));
      EXPECT_TRUE(by_loop.equal(by_tensors)) << dim;
    }
  }
}

TEST(Int8, KeepsEachRowAsTheFormulaSays) {
  at::manual_seed(3);
  const at::Tensor rows = at::randn({3, 2, 500, 16}).mul(at::randn({3, 2, 500, 1}).mul(5).exp());
  rows.select(2, 7).zero_();
  const Int8Codec codec;
  std::vector<at::Tensor> planes;
  for (const RowCodec::Plane& plane : codec.planes(16)) {
    planes.push_back(at::empty({3, 2, 500, plane.width}, plane.dtype));
  }
  codec.encode(rows, planes);
  EXPECT_EQ(planes[0].scalar_type(), at::kChar);
  EXPECT_EQ(planes[0].abs().amax().item<int>(), 127);
  at::Tensor back = at::empty_like(rows);
  codec.decode(planes, back, back);
  EXPECT_TRUE(back.equal(quantized_and_back(rows)));
}

TEST(Int8, RoundsTiesToEvenAndKeepsTheLargestNumber) {
  const at::Tensor row = at::tensor({254.0F, -127.0F, 5.0F, 3.0F, 1.0F, -0.9F, 0.0F, 2.0F});
  const Int8Codec codec;
  const std::vector<at::Tensor> planes{at::empty({8}, at::kChar), at::empty({1}, at::kFloat)};
  codec.encode(row, planes);  // the scale is 2: -63.5, 2.5, 1.5, 0.5 and -0.45 are rounded
  EXPECT_EQ(planes[1].item<float>(), 2.0F);
  EXPECT_TRUE(planes[0].equal(at::tensor({127, -64, 2, 2, 0, 0, 0, 1}, at::kChar)));
}

TEST(Int8, LogitsAndTokensAreThoseOfThePlainComputation) {
  TorchModel model = toy_model();
  const std::vector<std::int32_t> prompt{4, 5, 6, 7, 8};
  BatchRun run(*model.module, model.layout, BatchShape({prompt}, 5, 30), at::kCPU,
               cache_maker(cache::CacheSpec::parse("int8")));
  BatchRun exact(*model.module, model.layout, BatchShape({prompt}, 5, 30), at::kCPU,
                 cache_maker({}));
  PlainCache plain(2);
  const auto computed = [&](const std::vector<std::int64_t>& tokens, std::int64_t first) {
    const auto count = static_cast<std::int64_t>(tokens.size());
    return run_forward(*model.module, plain, "the plain computation",
                       at::tensor(tokens, at::kLong).unsqueeze(0),
                       at::arange(first, first + count, at::kLong).unsqueeze(0),
                       at::tensor({count - 1}, at::kLong))
        .select(1, 0);
  };
  at::Tensor logits = run.prefill();
  at::Tensor expected = computed({4, 5, 6, 7, 8}, 0);
  at::Tensor unrounded = exact.prefill();
  double noise = 0.0;
  double effect = 0.0;
  for (std::int64_t step = 0; step < 20; ++step) {
    noise = std::max(noise, (logits - expected).abs().max().item<double>());
    effect = std::max(effect, (logits - unrounded).abs().max().item<double>());
    const auto token = expected.argmax().item<std::int64_t>();
    EXPECT_EQ(logits.argmax().item<std::int64_t>(), token) << step;
    const std::array fed{static_cast<std::int32_t>(token)};
    logits = run.decode(step, fed);
    unrounded = exact.decode(step, fed);
    expected = computed({token}, 5 + step);
  }
  EXPECT_LT(noise, 1e-4);
  EXPECT_GT(effect, 1e-2);  // or the comparison says nothing
}

}  // namespace
}  // namespace kvtool::engine
