// The quality of an experiment: the baseline's tokens, recorded once, fed under its cache.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "kvtool/base/temporary_folder.h"
#include "kvtool/run/experiment.h"
#include "run/reference/open_recordings.h"
#include "run/reference/reference_sets.h"
#include "run/session.h"

namespace kvtool::run {

// Of one prompt, context, batch and number of tokens.
class ExperimentJudge {
 public:
  // All must outlive it.
  ExperimentJudge(Session& session, const Services& services, const ModelFile& file,
                  engine::Model& model, const std::vector<std::vector<std::int32_t>>& prompts,
                  std::uint64_t max_new_tokens);

  // Records the reference, unless it is there. Errors as record_reference().
  void record(const engine::Progress& progress);
  // There will be none, and why.
  void give_up(std::string reason) { failure_ = std::move(reason); }
  [[nodiscard]] const std::string& failure() const { return failure_; }

  // Fills quality, idle and read_bytes_per_step. Errors as TrialRunner::run().
  void judge(Experiment& experiment, const engine::Progress& progress) const;

 private:
  [[nodiscard]] Request recording_request() const;

  Session& session_;
  const Services& services_;
  const ModelFile& file_;
  engine::Model& model_;
  const std::vector<std::vector<std::int32_t>>& prompts_;
  std::uint64_t max_new_tokens_;
  std::string failure_;
  std::optional<TemporaryFolder> folder_;
  std::optional<OpenRecordings> recordings_;
  std::vector<ReferenceSet> references_;
};

}  // namespace kvtool::run
