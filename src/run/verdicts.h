// Sums the inputs of a run up, judges them by the gate and says what it means:
// one verdict for each model and reference device, and for each cache of either side.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "kvtool/analysis/gate.h"
#include "kvtool/run/result.h"

namespace kvtool::run {

class VerdictBuilder {
 public:
  // No spec: the default gate.
  explicit VerdictBuilder(std::optional<analysis::GateSpec> gate) : spec_(std::move(gate)) {}

  // The gate that will judge inputs of this context; its near-tie bound must be
  // known before they are compared.
  [[nodiscard]] analysis::Gate gate_for(const analysis::GateContext& context) const;

  // `input` has a replay.
  void add(const analysis::GateContext& context, const InputResult& input);

  [[nodiscard]] std::vector<Verdict> build() const;

 private:
  struct Group {
    analysis::GateContext context;
    analysis::RunSummaryBuilder run;
    bool different_weights = false;
    bool different_config = false;
    bool parallel = false;
    analysis::ProvenanceSummary provenance;
    std::optional<analysis::NumericsAgreement> numerics;
  };

  Group& group_of(const analysis::GateContext& context);

  std::optional<analysis::GateSpec> spec_;
  std::vector<Group> groups_;
};

}  // namespace kvtool::run
