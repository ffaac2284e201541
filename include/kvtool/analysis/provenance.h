// Compares where two recordings (or a recording and this device) come from.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace kvtool::analysis {

// What a value says: numerics.h makes a digest of kPolicy and one of kPlatform.
enum class ProvenancePart : std::uint8_t {
  kModel,     // what is computed: weights, config, graph
  kPolicy,    // what was chosen and can change a bit: dtype, cache, batch, kernels' switches
  kPlatform,  // what it ran on: processor, GPU, driver, builds of torch and kvtool
  kSystem,    // named for people; changes no bit by itself
};

// "model", "policy", "platform", "system".
[[nodiscard]] std::string_view part_name(ProvenancePart part);

struct ProvenanceDifference {
  std::string key;       // "device.provenance.torch_version"
  std::string label;     // "torch"
  std::string recorded;  // as text; "unknown" when absent
  std::string live;
  std::string why;  // what it can change: "kernels of another version may round differently"
  ProvenancePart part = ProvenancePart::kPolicy;
  std::uint64_t inputs = 1;  // that differ so
  bool is_range = false;     // they have several values: "24 to 87"

  // The label, where the values are ranges with the number of inputs: "cache capacity (8 inputs)".
  [[nodiscard]] std::string title() const;
};

// Every difference between two META records (docs/format.md) that can explain a
// mismatch: weights, architecture, config and graph, K/V cache, exporter, torch and transformers
// versions, device and driver, CPU model and instruction-set limit, threads,
// determinism and TF32, batch shape. META is advisory: any member may be
// missing or of another type. What neither side knows is no difference.
[[nodiscard]] std::vector<ProvenanceDifference> compare_provenance(const nlohmann::json& recorded,
                                                                   const nlohmann::json& live);

// The differences of many inputs, each once, in the order in which they were first seen. What every
// input may have values of its own for, the shape of its batch, is one entry with their ranges.
class ProvenanceSummary {
 public:
  // Those of one input.
  void add(const std::vector<ProvenanceDifference>& differences);

  [[nodiscard]] std::vector<ProvenanceDifference> build() const;

 private:
  struct Values {
    std::optional<std::uint64_t> least;
    std::optional<std::uint64_t> most;
    bool has_unknown = false;

    void add(const std::string& text);
    [[nodiscard]] bool several() const;
    [[nodiscard]] std::string text() const;
  };
  struct Entry {
    ProvenanceDifference difference;
    bool is_pooled = false;
    Values recorded = {};
    Values live = {};

    [[nodiscard]] bool takes(const ProvenanceDifference& other) const;
  };

  std::vector<Entry> entries_;
};

}  // namespace kvtool::analysis
