// What a result depends on, as rows over paths of META: the one table behind differences of
// provenance, the two digests of numerics.h and what `save --resume` insists on.
#pragma once

#include <array>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <set>
#include <string>

#include "kvtool/analysis/provenance.h"
#include "kvtool/format/meta.h"

namespace kvtool::analysis {

// For `when_absent`: what one side does not know is no difference. Older
// recordings lack the member, or it is checked elsewhere.
inline constexpr const char* kNotCompared = "";
// What a side that should know it does not tell.
inline constexpr const char* kUnknown = "unknown";
inline constexpr const char* kConfigKey = "model.config";
// The batch that an input stood in.
inline constexpr const char* kBatchPrefix = "run.";
inline constexpr const char* kProvenancePrefix = "device.provenance.";

// On which devices a setting can explain anything: a pair of them, or the one of a record.
enum class ProvenanceScope : std::uint8_t {
  kAlways,
  kBothCpu,   // of the host CPU: nothing to a GPU's results
  kBothCuda,  // a CPU has no such thing
  kNotBothCpu,
};

struct ProvenanceEntry {
  const char* key;  // path with dots
  const char* label;
  const char* why;
  ProvenancePart part;
  ProvenanceScope scope = ProvenanceScope::kAlways;
  const char* when_absent = nullptr;  // what a missing value stands for; null: not known
};

// In the order in which a person should rule causes out.
inline constexpr std::array kProvenanceEntries = [] {
  using enum ProvenancePart;
  using enum ProvenanceScope;
  return std::array{
      ProvenanceEntry{"model.weights_sha256", "weights", "other weights are another model", kModel,
                      kAlways, kNotCompared},
      ProvenanceEntry{"model.architecture", "architecture",
                      "equal weights can be read by another network", kModel},
      // The label stands before the name of a field.
      ProvenanceEntry{kConfigKey, "config", "equal weights of another config are another model",
                      kModel},
      ProvenanceEntry{"model.graph_sha256", "traced graph",
                      "another graph computes with other operations or constants", kModel},
      ProvenanceEntry{"model.dtype", "model dtype",
                      "another number format rounds every result differently", kPolicy},
      ProvenanceEntry{"cache", "K/V cache",
                      "another cache may keep rows in other numbers, or show a query others",
                      kPolicy, kAlways, format::kUnnamedCache},
      ProvenanceEntry{"model.exporter_version", "exporter",
                      "another exporter may trace the model into other operations", kModel},
      ProvenanceEntry{"model.transformers_version", "transformers (export)",
                      "another version may define the model with other operations", kModel},
      ProvenanceEntry{"model.torch_version", "torch (export)",
                      "another version may trace the model into other operations", kModel},
      ProvenanceEntry{"kvtool", "kvtool",
                      "another version may compute attention with other operations", kPlatform},
      ProvenanceEntry{"device.type", "device type", "another kind of device has other kernels",
                      kPlatform},
      ProvenanceEntry{"device.name", "device",
                      "another device has other kernels and adds in another order", kPlatform,
                      kNotBothCpu},
      ProvenanceEntry{"device.provenance.torch_version", "torch",
                      "kernels of another version may round differently", kPlatform},
      ProvenanceEntry{"device.provenance.cpu_model", "CPU", "kernels are chosen by CPU model",
                      kPlatform, kBothCpu},
      ProvenanceEntry{"device.provenance.cpu_architecture", "CPU architecture",
                      "another architecture has other kernels", kPlatform, kBothCpu, kNotCompared},
      ProvenanceEntry{"device.provenance.cpu_isa", "instruction set",
                      "another vector width adds in another order", kPolicy, kBothCpu},
      ProvenanceEntry{"device.provenance.threads", "CPU threads",
                      "another number of threads splits sums at other places", kPolicy, kBothCpu},
      ProvenanceEntry{"device.provenance.compute_capability", "compute capability",
                      "kernels are chosen by the GPU's generation", kPlatform, kBothCuda},
      ProvenanceEntry{"device.provenance.multiprocessors", "multiprocessors",
                      "another number of multiprocessors splits sums at other places", kPlatform,
                      kBothCuda},
      ProvenanceEntry{"device.provenance.driver_version", "driver",
                      "another driver may bring other library kernels", kPlatform, kBothCuda},
      ProvenanceEntry{"device.provenance.cuda_runtime_version", "CUDA",
                      "cuBLAS and cuDNN of another version may choose other kernels", kPlatform,
                      kBothCuda},
      ProvenanceEntry{"device.provenance.cudnn_version", "cuDNN",
                      "kernels of another version may round differently", kPlatform, kBothCuda,
                      kNotCompared},
      ProvenanceEntry{"device.provenance.tf32_matmul", "TF32 matrix products",
                      "TF32 keeps 10 of float32's 23 fraction bits", kPolicy, kAlways, "false"},
      ProvenanceEntry{"device.provenance.tf32_cudnn", "TF32 in cuDNN",
                      "TF32 keeps 10 of float32's 23 fraction bits", kPolicy, kBothCuda, "false"},
      ProvenanceEntry{"device.provenance.float32_matmul_precision", "float32 matmul precision",
                      "below \"highest\", float32 products are computed in fewer bits", kPolicy,
                      kAlways, "highest"},
      ProvenanceEntry{"device.provenance.deterministic_algorithms", "deterministic algorithms",
                      "without them a kernel may add in another order from run to run", kPolicy,
                      kAlways, "false"},
      ProvenanceEntry{"device.provenance.onednn_deterministic", "deterministic oneDNN",
                      "without it a kernel may add in another order from run to run", kPolicy,
                      kBothCpu, "false"},
      ProvenanceEntry{"device.provenance.cudnn_deterministic", "deterministic cuDNN",
                      "without it a kernel may add in another order from run to run", kPolicy,
                      kBothCuda, "false"},
      ProvenanceEntry{"device.provenance.cudnn_benchmark", "cuDNN's choice by time",
                      "the kernel that was fastest runs, another one from run to run", kPolicy,
                      kBothCuda, "false"},
      ProvenanceEntry{"device.provenance.onednn_enabled", "oneDNN",
                      "without it other kernels multiply matrices", kPolicy, kBothCpu, "true"},
      ProvenanceEntry{"device.provenance.cudnn_enabled", "cuDNN in use",
                      "without it other kernels run", kPolicy, kBothCuda, "true"},
      ProvenanceEntry{"device.provenance.sdp_flash", "fused attention (flash)",
                      "another kernel of attention adds in another order", kPolicy, kAlways,
                      "true"},
      ProvenanceEntry{"device.provenance.sdp_math", "unfused attention",
                      "another kernel of attention adds in another order", kPolicy, kAlways,
                      "true"},
      ProvenanceEntry{"device.provenance.sdp_mem_efficient", "fused attention (memory-efficient)",
                      "another kernel of attention adds in another order", kPolicy, kBothCuda,
                      "true"},
      ProvenanceEntry{"device.provenance.sdp_cudnn", "fused attention (cuDNN)",
                      "another kernel of attention adds in another order", kPolicy, kBothCuda,
                      "true"},
      ProvenanceEntry{"device.provenance.sdp_math_reduced_precision",
                      "16-bit sums in unfused attention", "sums in fewer bits round more", kPolicy,
                      kAlways, "false"},
      ProvenanceEntry{"device.provenance.fp16_reduction_cpu", "16-bit sums of float16 products",
                      "sums in fewer bits round more", kPolicy, kBothCpu, "false"},
      ProvenanceEntry{"device.provenance.fp16_reduction_cublas",
                      "16-bit sums of float16 products in cuBLAS",
                      "sums in fewer bits round more, and a split one adds in another order",
                      kPolicy, kBothCuda, "allowed"},
      ProvenanceEntry{"device.provenance.bf16_reduction_cublas",
                      "16-bit sums of bfloat16 products in cuBLAS",
                      "sums in fewer bits round more, and a split one adds in another order",
                      kPolicy, kBothCuda, "allowed"},
      ProvenanceEntry{"device.provenance.fp16_accumulation_cublas",
                      "float16 accumulators in cuBLAS", "sums in fewer bits round more", kPolicy,
                      kBothCuda, "false"},
      // A machine that lost power may come back with another kernel.
      ProvenanceEntry{"device.provenance.os_release", "operating system",
                      "another system brings other mathematical libraries", kSystem, kAlways,
                      kNotCompared},
      ProvenanceEntry{"run.rows", "rows of the batch",
                      "kernels are chosen by the shape of the batch", kPolicy},
      ProvenanceEntry{"run.padded_length", "padded prompt length",
                      "kernels are chosen by the shape of the batch", kPolicy},
      ProvenanceEntry{"run.cache_capacity", "cache capacity",
                      "kernels are chosen by the shape of the batch and its cache", kPolicy},
      ProvenanceEntry{"replay_of.parallel", "parallel replay",
                      "a pass over all steps runs other kernels than step by step", kPolicy,
                      kAlways, "false"},
  };
}();

// Settings of device.provenance that have no row: a newer kvtool, or someone else's, records
// them. No judgement but that they are part of the policy.
[[nodiscard]] std::set<std::string> unlisted_settings(const nlohmann::json& meta);

}  // namespace kvtool::analysis
