#include "kvtool/run/selftest.h"

#include <algorithm>
#include <memory>

#include "fault_trials.h"
#include "kvtool/base/error.h"
#include "kvtool/base/setting.h"
#include "kvtool/base/temporary_folder.h"
#include "run/reference/choose_models.h"
#include "run/reference/open_recordings.h"
#include "run/reference/reference_sets.h"
#include "run/session.h"
#include "run/shared_engine.h"

namespace kvtool::run {
namespace {

constexpr std::uint64_t kDefaultBatchSize = 2;

// Ids from the middle of the vocabulary, where no special tokens are; a prime
// stride, so that none comes twice. Two lengths, so that one row is padded.
std::vector<Prompt> default_prompts(std::uint32_t vocab_size) {
  constexpr std::uint64_t kStride = 7919;
  std::vector<Prompt> prompts;
  for (const std::uint64_t length : {24U, 19U}) {
    Prompt& prompt = prompts.emplace_back();
    prompt.kind = Prompt::Kind::kTokenIds;
    prompt.origin = "built-in prompt " + std::to_string(prompts.size());
    const std::uint64_t first = vocab_size / 4;
    const std::uint64_t span = std::max<std::uint64_t>(1, vocab_size / 2);
    for (std::uint64_t i = 0; i < length; ++i) {
      prompt.token_ids.push_back(
          static_cast<std::int32_t>(first + (i + 1) * kStride * prompts.size() % span));
    }
  }
  return prompts;
}

class SelftestRun {
 public:
  SelftestRun(const Request& request, bool search, const Services& services, Observer& observer)
      : services_(services),
        request_(request),
        search_(search),
        observer_(observer),
        session_(services_, request_, observer) {
    services_.open_engine = share_engine(services.open_engine);
  }

  bool run() {
    require_one_source(request_);
    if (request_.models.empty()) throw_usage("no model: give one with " + setting("model"));
    bool passed = true;
    for (const std::string& given : request_.models) {
      passed = run_model(resolve_model(given, request_.config_folder)) && passed;
    }
    session_.finish();
    return passed;
  }

 private:
  bool run_model(const ModelFile& file) {
    OpenRecordings recordings(services_.files);
    const std::unique_ptr<engine::Model> model = session_.load_model(file);
    bool passed = true;
    const auto test = [&](const Request& request, const std::string& words) {
      const ReferenceSource source = find_reference(request.from, request.ref_dir);
      const std::vector<ReferenceSet> references =
          reference_sets(request, source, folder_of(request.from, source, file, /*num_models=*/1),
                         recordings, observer_);
      check_belong(references, *model);
      for (const ReferenceSet& reference : references) {
        SelftestResult result = try_faults(session_, *model, reference, options_for(*model));
        result.reference = words;
        passed = passed && result.passed();
        observer_.selftest(result);
      }
    };
    if (!request_.from.empty()) {
      test(request_, request_.from);
      return passed;
    }
    const TemporaryFolder folder("selftest");
    const Request recording = recording_of(file, *model);
    record_reference(recording, services_, folder.path());
    test(replay_of_recorded(recording, folder.path()), "recorded on this device for the selftest");
    return passed;
  }

  [[nodiscard]] Request recording_of(const ModelFile& file, const engine::Model& model) const {
    Request recording = request_;
    recording.models = {file.path.string()};
    recording.save_mode = format::SaveMode::kDelta;
    recording.ignore_eos = true;  // a fault needs steps to show in
    if (recording.prompts.empty()) recording.prompts = default_prompts(model.info().vocab_size);
    if (recording.batch_sizes.empty()) recording.batch_sizes = {kDefaultBatchSize};
    return recording;
  }

  [[nodiscard]] SelftestOptions options_for(const engine::Model& model) const {
    const DType kv = model.info().geometry.layer(0).key_dtype;
    return {.modes = request_.replay_modes,
            .gate = request_.gate.value_or(analysis::GateSpec::builtin(gate_for_kv(kv))),
            .kv_cache = request_.kv_cache,
            .shape = request_.replay_shape,
            .parallel_memory_bytes = request_.parallel_memory_bytes,
            .search = search_};
  }

  Services services_;  // a copy, whose engine is shared
  const Request& request_;
  bool search_;
  Observer& observer_;
  Session session_;
};

}  // namespace

bool run_selftest(const Request& request, bool search, const Services& services,
                  Observer& observer) {
  return SelftestRun(request, search, services, observer).run();
}

}  // namespace kvtool::run
