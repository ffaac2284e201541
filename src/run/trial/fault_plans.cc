#include "fault_plans.h"

#include <fmt/format.h>

#include <cmath>

#include "kvtool/run/faults.h"

namespace kvtool::run {
namespace {

using engine::FaultKind;

// V x 1.01; for 8-bit types, which have no 1.01, the next value above 1.
constexpr double kScaledValues = 0.01;

std::optional<std::uint32_t> layer_with_two_heads(const format::Geometry& geometry) {
  const std::size_t layers = geometry.num_layers();
  for (std::size_t i = 0; i < layers; ++i) {
    const std::size_t layer = (layers / 2 + i) % layers;
    if (geometry.layer(layer).num_kv_heads >= 2) return static_cast<std::uint32_t>(layer);
  }
  return std::nullopt;
}

double strength_of(FaultKind kind, const format::LayerGeometry& layer) {
  if (kind != FaultKind::kScaledValues) return 1.0;
  const bool is_fp8 = element_size(layer.value_dtype) == 1;
  return is_fp8 ? std::ldexp(1.0, -mantissa_bits(layer.value_dtype)) : kScaledValues;
}

std::string described(const FaultInfo& type, const engine::Fault& fault) {
  return fmt::format(fmt::runtime(type.description), fmt::arg("factor", 1.0 + fault.strength),
                     fmt::arg("layer", fault.layer), fmt::arg("step", fault.step));
}

const FaultInfo& type_of(FaultKind kind) {
  for (const FaultInfo& type : kFaults) {
    if (type.kind == kind) return type;
  }
  return kFaults.front();
}

void place_swapped_heads(const engine::ModelInfo& model, FaultPlan& plan) {
  if (const auto layer = layer_with_two_heads(model.geometry)) {
    plan.fault.layer = *layer;
  } else {
    plan.skipped = "every layer has one KV head, swapping needs two";
  }
}

void place_rotated_keys(const engine::ModelInfo& model, const FaultSite& site, FaultPlan& plan) {
  const std::uint64_t needed = site.longest_prompt + site.most_steps + 1;
  if (needed > model.max_positions) {
    plan.skipped =
        fmt::format("it needs {} positions, the model takes {}", needed, model.max_positions);
  }
  if (model.geometry.num_layers() > 1) {
    plan.other_layer = plan.fault.layer == 0 ? 1 : plan.fault.layer - 1;
  }
}

}  // namespace

std::vector<FaultPlan> plan_faults(const engine::ModelInfo& model, const FaultSite& site) {
  const auto middle = static_cast<std::uint32_t>(model.geometry.num_layers() / 2);
  std::vector<FaultPlan> plans;
  for (const FaultInfo& type : kFaults) {
    FaultPlan& plan = plans.emplace_back();
    plan.name = type.name;
    plan.unit = type.unit;
    plan.fault = {type.kind, middle, site.step,
                  strength_of(type.kind, model.geometry.layer(middle))};
    if (type.kind == FaultKind::kSwappedHeads) place_swapped_heads(model, plan);
    if (type.kind == FaultKind::kRotatedKeys) place_rotated_keys(model, site, plan);
    plan.description = described(type, plan.fault);
  }
  return plans;
}

FaultPlan moved_to(const FaultPlan& plan, std::uint32_t layer) {
  FaultPlan moved = plan;
  moved.fault.layer = layer;
  moved.other_layer.reset();
  moved.description = described(type_of(plan.fault.kind), moved.fault);
  return moved;
}

}  // namespace kvtool::run
