// What decides a recording's bits beside its model: the numerical policy (what was chosen) and
// the platform (what it ran on), each as a list of entries and a digest of it. docs/format.md,
// "What was computed".
#pragma once

#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "kvtool/analysis/provenance.h"

namespace kvtool::analysis {

struct NumericList {
  std::map<std::string, std::string> entries = {};  // by the keys of ProvenanceDifference
  std::vector<std::string> missing = {};            // labels of entries that META does not tell
  std::string digest = {};                          // hex; empty where one is missing

  [[nodiscard]] bool known() const { return missing.empty(); }
};

struct Numerics {
  NumericList policy = {};
  NumericList platform = {};
};

// Of one META record, by the rows of the table behind compare_provenance(): those that reach
// the record's kind of device. A member that META lacks and that has always had one value counts
// with that value, so that recordings of different versions have comparable digests.
[[nodiscard]] Numerics numerics_of(const nlohmann::json& meta);

// META's member "numerics": {"policy": {"digest", "entries"}, "platform": ...}, "missing" in the
// place of a digest that is not known.
[[nodiscard]] nlohmann::json numerics_member(const Numerics& numerics);

// One of the two lists of a reference beside that of what is compared with it, or of all inputs
// of a run together.
struct NumericAgreement {
  bool equal = false;                       // digests, of every input
  std::string recorded = {};                // the digest; empty: not known, or inputs have several
  std::string live = {};                    // likewise
  std::vector<std::string> differing = {};  // labels of entries
  std::vector<std::string> missing = {};    // labels of entries that a side does not tell

  // Nothing where it cannot be told, or where two kinds of device have different entries and
  // agree in those that both have.
  [[nodiscard]] std::optional<bool> same() const;
  void add(const NumericAgreement& other);
};

struct NumericsAgreement {
  NumericAgreement policy = {};
  NumericAgreement platform = {};
};

// `differences`: what compare_provenance() finds between the two.
[[nodiscard]] NumericsAgreement compare_numerics(
    const nlohmann::json& recorded, const nlohmann::json& live,
    const std::vector<ProvenanceDifference>& differences);

}  // namespace kvtool::analysis
