// How a cache keeps a row: the axis of a cache that changes numbers.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <vector>

namespace kvtool::engine {

// A row is what one K/V head has of K or V at one position: `dim` numbers. A codec keeps each
// on its own, as `planes` of some elements each, and sees nothing of other rows.
class RowCodec {
 public:
  struct Plane {
    at::ScalarType dtype;
    std::int64_t width;   // elements per row
    bool shared = false;  // by all positions of a K/V head: set by measure() alone
  };

  virtual ~RowCodec() = default;

  [[nodiscard]] virtual std::vector<Plane> planes(std::int64_t dim) const = 0;
  // Error kIncompatible for rows of a type that it cannot keep.
  virtual void check(at::ScalarType dtype) const = 0;

  // Fills the shared planes from a prompt of one row, [.., heads, positions, dim]; before that they
  // are as new_shared() says.
  virtual void measure(const at::Tensor&, const std::vector<at::Tensor>&) const {}
  // What a shared plane holds at first.
  [[nodiscard]] virtual double new_shared() const { return 1.0; }

  // rows [.., dim], floating point -> one tensor [.., width] per plane.
  virtual void encode(const at::Tensor& rows, const std::vector<at::Tensor>& planes) const = 0;
  // The inverse: fills `rows` [.., dim]. `wide` is float32 of the same shape, and may be `rows`
  // itself: room for what lies between, so that a step need not allocate it. What was decoded
  // and is encoded again must decode to the same bits, or a recording of this cache could not
  // be injected into it.
  virtual void decode(const std::vector<at::Tensor>& planes, const at::Tensor& rows,
                      const at::Tensor& wide) const = 0;
};

}  // namespace kvtool::engine
