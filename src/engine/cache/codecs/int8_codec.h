// The policy "int8": rows as 8-bit integers with one scale each (docs/caches.md).
#pragma once

#include "engine/cache/codecs/row_codec.h"

namespace kvtool::engine {

// Symmetric quantization of each row x, in float32:
//
//     s = max(|x|) / 127
//     q = round(x / s), ties to even, in [-127, 127]; 0 where s is 0
//     x' = q * s, rounded to the type of the rows
//
// Encoding x' gives s again, since (127 * s) / 127 is s for every s of this form, and so the
// same row: see RowCodec::decode(). A row with NaN or Inf is not finite afterwards.
class Int8Codec : public RowCodec {
 public:
  [[nodiscard]] std::vector<Plane> planes(std::int64_t dim) const override;
  void check(at::ScalarType dtype) const override;
  void encode(const at::Tensor& rows, const std::vector<at::Tensor>& planes) const override;
  void decode(const std::vector<at::Tensor>& planes, const at::Tensor& rows,
              const at::Tensor& wide) const override;
  // The same, on any device.
  static void decode_by_tensors(const std::vector<at::Tensor>& planes, const at::Tensor& rows,
                                const at::Tensor& wide);
};

}  // namespace kvtool::engine
