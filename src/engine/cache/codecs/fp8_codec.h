// The policy "fp8": rows as 8-bit floating point with a scale (docs/caches.md).
#pragma once

#include <optional>

#include "engine/cache/codecs/dequantize.h"
#include "engine/cache/codecs/row_codec.h"

namespace kvtool::engine {

// Of each number x, in float32, with the scale s of its tensor or K/V head:
//
//     q  = x / s, clamped to the largest finite number of the type, rounded to it, ties to even
//     x' = q s, rounded to the type of the rows
//
// A measured s is the power of two from max(|x|) / (largest number) upwards, of the finite numbers
// of a prompt: then x' is exact, and what was kept is kept to the bit. 1 before there is a prompt,
// and where that is all zeros. NaN and Inf become NaN, in E5M2 Inf stays Inf.
class Fp8Codec : public RowCodec {
 public:
  struct Settings {
    at::ScalarType type = at::kFloat8_e4m3fn;  // or kFloat8_e5m2
    bool per_head = true;                      // a scale for each K/V head, else for all together
    std::optional<double> scale;               // given; else measured
  };

  explicit Fp8Codec(const Settings& settings);

  [[nodiscard]] std::vector<Plane> planes(std::int64_t dim) const override;
  void check(at::ScalarType dtype) const override;
  void measure(const at::Tensor& prompt, const std::vector<at::Tensor>& planes) const override;
  [[nodiscard]] double new_shared() const override { return settings_.scale.value_or(1.0); }
  void encode(const at::Tensor& rows, const std::vector<at::Tensor>& planes) const override;
  void decode(const std::vector<at::Tensor>& planes, const at::Tensor& rows,
              const at::Tensor& wide) const override;
  // The same, on any device.
  static void decode_by_tensors(const std::vector<at::Tensor>& planes, const at::Tensor& rows,
                                const at::Tensor& wide);

 private:
  [[nodiscard]] double largest() const;

  Settings settings_;
  CodeTable numbers_;
};

}  // namespace kvtool::engine
