// Lets a model read the texts of a lab through each cache of its table.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kvtool/base/error.h"
#include "kvtool/engine/api.h"
#include "kvtool/run/lab.h"
#include "kvtool/run/services.h"
#include "lab_plan.h"
#include "needles.h"
#include "run/reference/reference_sets.h"
#include "text_windows.h"

namespace kvtool::run {

class LabReader {
 public:
  // Makes all texts and plans all rows, so that what is wrong with them is said before anything
  // runs. Errors as windows_of(), needle_texts(), lab_contexts() and plan_lab_rows(). All that is
  // not const& is copied; the rest must outlive the reader.
  LabReader(engine::Model& model, const LabRequest& request, const LabPlan& plan,
            const Services& services, std::span<const ReferenceSet> references);

  // Fills `perplexities` and `needles`. `progress` is told what is about to run. A cache that the
  // engine refuses has a row that says why; failure() then holds the first such Error.
  void read(const std::function<engine::Progress(const std::string& words)>& progress,
            LabResult& result);
  [[nodiscard]] const std::optional<Error>& failure() const { return failure_; }

 private:
  // A cache that reads, in batches of at most `batch` texts.
  struct Reader {
    LabReading what;
    cache::CacheSpec spec;
    std::size_t batch = 1;
  };
  using Inputs = std::vector<engine::ScoreInput>;
  using MakeProgress = std::function<engine::Progress(const std::string& words)>;

  [[nodiscard]] std::vector<Reader> readers_of(std::uint64_t context, std::size_t texts) const;
  void read_windows(std::uint64_t context, const Inputs& windows, const MakeProgress& progress,
                    LabResult& result);
  void read_needles(std::uint64_t context, const std::vector<NeedleText>& texts,
                    const MakeProgress& progress, LabResult& result);
  // Nothing where the engine refuses; fills what the cache did.
  [[nodiscard]] std::optional<std::vector<engine::ScoredText>> score(
      const Reader& reader, const Inputs& inputs, const engine::Progress& progress,
      LabReading& what);

  engine::Model& model_;
  const LabRequest& request_;
  const LabPlan& plan_;
  const Services& services_;
  cache::CacheSpec recorded_;
  std::vector<std::uint64_t> contexts_;
  LabText text_;
  std::vector<Inputs> windows_;                   // of each context
  std::vector<std::vector<NeedleText>> needles_;  // likewise
  std::string filler_name_;
  std::string example_;
  std::optional<Error> failure_;
};

}  // namespace kvtool::run
