#include "kvtool/run/selftest.h"

#include <algorithm>
#include <filesystem>
#include <memory>
#include <utility>

#include "fault_trials.h"
#include "find_reference.h"
#include "kvtool/base/error.h"
#include "kvtool/base/setting.h"
#include "kvtool/base/temporary_folder.h"
#include "kvtool/format/reader.h"
#include "kvtool/run/generation.h"
#include "model_check.h"
#include "plan_batches.h"
#include "select_references.h"
#include "session.h"
#include "shared_engine.h"

namespace kvtool::run {
namespace {

namespace fs = std::filesystem;

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
    const std::unique_ptr<engine::Model> model = session_.load_model(file);
    bool passed = true;
    const auto test = [&](const std::vector<ReferenceSet>& references, const std::string& words) {
      for (const ReferenceSet& reference : references) {
        check_belong(reference, *model);
        SelftestResult result = try_faults(session_, *model, reference, options_for(*model));
        result.reference = words;
        passed = passed && result.passed();
        observer_.selftest(result);
      }
    };
    if (!request_.from.empty()) {
      test(references_below(request_.from, file), request_.from);
      return passed;
    }
    const TemporaryFolder folder("selftest");
    record(file, *model, folder.path());
    const fs::path recorded = folder.path() / session_.device_label() / model->info().slug;
    test(references_below(recorded.string(), file), "recorded on this device for the selftest");
    return passed;
  }

  // As any other reference is recorded, in this one's engine. Nobody is told: what is said
  // of recordings that are kept does not hold for temporary ones.
  void record(const ModelFile& file, const engine::Model& model, const fs::path& folder) {
    Request recording = request_;
    recording.models = {file.path.string()};
    recording.save = true;
    recording.save_mode = format::SaveMode::kDelta;
    recording.base_dir = folder.string();
    recording.ignore_eos = true;  // a fault needs steps to show in
    if (recording.prompts.empty()) recording.prompts = default_prompts(model.info().vocab_size);
    if (recording.batch_sizes.empty()) recording.batch_sizes = {kDefaultBatchSize};
    Observer nobody;
    static_cast<void>(run_generation(recording, services_, nobody));
  }

  // One for each batch size.
  [[nodiscard]] std::vector<ReferenceSet> references_below(const std::string& from,
                                                           const ModelFile& file) const {
    const ReferenceSource source = find_reference(from, request_.ref_dir);
    ReferenceSelection selection;
    selection.batch_size = request_.from_batch_size;
    selection.batch_sizes = request_.batch_sizes;
    if (!request_.from.empty() && !source.file) selection.num_inputs = request_.request_number;
    std::vector<ReferenceSet> references;
    for (auto& entries : select_references(source, folder_of(source, file), selection, observer_)) {
      ReferenceSet& reference = references.emplace_back();
      reference.batches = plan_batches(entries, request_.replay_shape);
      reference.entries = std::move(entries);
    }
    return references;
  }

  [[nodiscard]] static const ReferenceFolder& folder_of(const ReferenceSource& source,
                                                        const ModelFile& file) {
    for (const ReferenceFolder& folder : source.folders) {
      if (folder.slug == file.slug) return folder;
    }
    if (source.folders.size() == 1) return source.folders.front();
    throw_usage(source.folders.front().path.parent_path().string() + " holds no recordings of " +
                file.slug);
  }

  static void check_belong(const ReferenceSet& reference, const engine::Model& model) {
    for (const ReferenceEntry& entry : reference.entries) {
      (void)check_same_model(identity_of(format::Recording::open(entry.path)),
                             identity_of(model.info()), /*allow_different_weights=*/false);
    }
  }

  [[nodiscard]] SelftestOptions options_for(const engine::Model& model) const {
    const DType kv = model.info().geometry.layer(0).key_dtype;
    return {.modes = request_.replay_modes,
            .gate = request_.gate.value_or(analysis::GateSpec::builtin(gate_for_kv(kv))),
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
