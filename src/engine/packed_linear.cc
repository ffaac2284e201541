#include "engine/packed_linear.h"

#include <ATen/Context.h>
#include <ATen/core/List.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include <string_view>

namespace kvtool::engine {
namespace {

// What torch's own compiler makes of linear layers on a CPU; absent without oneDNN.
constexpr const char* kReorder = "mkldnn::_reorder_linear_weight";
constexpr const char* kLinear = "mkldnn::_linear_pointwise";

using Reorder = at::Tensor(const at::Tensor&, std::optional<std::int64_t>);
using Linear = at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&,
                          std::string_view, c10::List<std::optional<at::Scalar>>,
                          std::optional<std::string_view>);

// Whether oneDNN has kernels for a dtype depends on the CPU and on limits that it
// reads itself, so asking means trying.
bool try_to_pack(at::ScalarType dtype) {
  auto& dispatcher = c10::Dispatcher::singleton();
  if (!at::hasMKLDNN() || !at::globalContext().userEnabledMkldnn() ||
      !dispatcher.findSchema({kReorder, ""}) || !dispatcher.findSchema({kLinear, ""})) {
    return false;
  }
  try {
    const at::Tensor matrix = at::ones({16, 16}, dtype);
    return packed_linear(matrix, pack_weight(matrix), std::nullopt).dim() == 2;
  } catch (const c10::Error&) {
    return false;
  }
}

}  // namespace

bool can_pack_weights(at::ScalarType dtype) {
  static const bool packs_float = try_to_pack(at::kFloat);
  static const bool packs_bfloat16 = try_to_pack(at::kBFloat16);
  return (dtype == at::kFloat && packs_float) || (dtype == at::kBFloat16 && packs_bfloat16);
}

at::Tensor pack_weight(const at::Tensor& weight) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow(kReorder, "").typed<Reorder>();
  return op.call(weight, std::nullopt);
}

at::Tensor packed_linear(const at::Tensor& input, const at::Tensor& packed_weight,
                         const std::optional<at::Tensor>& bias) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow(kLinear, "").typed<Linear>();
  return op.call(input, packed_weight, bias, "none", c10::List<std::optional<at::Scalar>>(),
                 std::nullopt);
}

TORCH_LIBRARY_FRAGMENT(kvtool, library) {
  library.def("packed_linear(Tensor input, Tensor packed_weight, Tensor? bias) -> Tensor");
}

TORCH_LIBRARY_IMPL(kvtool, CompositeExplicitAutograd, packed_library) {
  packed_library.impl("packed_linear", TORCH_FN(packed_linear));
}

}  // namespace kvtool::engine
