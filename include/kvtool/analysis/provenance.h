// Compares where two recordings (or a recording and this device) come from.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace kvtool::analysis {

struct ProvenanceDifference {
  std::string key;       // "device.provenance.torch_version"
  std::string label;     // "torch"
  std::string recorded;  // as text; "unknown" when absent
  std::string live;
  std::string why;  // what it can change: "kernels of another version may round differently"
};

// Every difference between two META records (docs/format.md) that can explain a
// mismatch: weights, architecture, config and graph, K/V cache, exporter, torch and transformers
// versions, device and driver, CPU model and instruction-set limit, threads,
// determinism and TF32, batch shape. META is advisory: any member may be
// missing or of another type. What neither side knows is no difference.
[[nodiscard]] std::vector<ProvenanceDifference> compare_provenance(const nlohmann::json& recorded,
                                                                   const nlohmann::json& live);

}  // namespace kvtool::analysis
