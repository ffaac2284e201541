#include "kvtool/run/replay.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "batch_replay.h"
#include "kvtool/base/error.h"
#include "kvtool/base/setting.h"
#include "kvtool/format/row.h"
#include "model_check.h"
#include "recording_ledger.h"
#include "replay_cache.h"
#include "replay_modes.h"
#include "run/reference/choose_models.h"
#include "run/reference/open_recordings.h"
#include "run/reference/reference_sets.h"
#include "run_meta.h"
#include "session.h"

namespace kvtool::run {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// Text and token ids can be compared without a tokenizer; messages only with
// the messages that the recording kept.
bool same_prompt(const Prompt& given, const ReferenceEntry& entry) {
  const json& recorded = entry.prompt_meta;
  const auto member = [&](const char* key) {
    return recorded.is_object() ? recorded.value(key, json()) : json();
  };
  switch (given.kind) {
    case Prompt::Kind::kTokenIds: return given.token_ids == entry.prompt_ids;
    case Prompt::Kind::kText:
      // How far a text reaches that was cut, only its tokenizer knows.
      if (given.cut_to_tokens != 0) return given.cut_to_tokens == entry.prompt_ids.size();
      return member("text").is_null() || member("text") == given.text;
    case Prompt::Kind::kMessages:
      return member("messages").is_null() || member("messages") == given.messages;
  }
  return true;
}

class ReplayRun {
 public:
  explicit ReplayRun(Session& session)
      : session_(session), request_(session.request()), recordings_(session.services().files) {}

  void run() {
    const ReferenceSource source = find_reference(request_.from, request_.ref_dir);
    const std::vector<ModelFile> models = choose_models(request_, source, recordings_);
    std::vector<std::vector<ReferenceSet>> replays;
    std::uint64_t planned = 0;
    for (const ModelFile& model : models) {
      replays.push_back(plan_model(source, folder_of(request_.from, source, model, models.size())));
      planned += count_selected(replays.back());
    }
    RecordingLedger ledger(planned);
    try {
      for (std::size_t i = 0; i < models.size(); ++i) run_model(models[i], replays[i], ledger);
    } catch (...) {
      log_kept(ledger, planned);
      throw;
    }
  }

 private:
  [[nodiscard]] std::vector<ReferenceSet> plan_model(const ReferenceSource& source,
                                                     const ReferenceFolder& folder) {
    Request wanted = request_;
    if (!wanted.request_number && !wanted.prompts.empty()) {
      wanted.request_number = wanted.prompts.size();
    }
    std::vector<ReferenceSet> references =
        reference_sets(wanted, source, folder, recordings_, session_.observer());
    for (const ReferenceSet& reference : references) check_prompts(reference.entries);
    return references;
  }

  // The recorded prompts are what is replayed; other ones on the command line
  // are a mistake, other ones in a configuration may serve another command.
  void check_prompts(const std::vector<ReferenceEntry>& entries) const {
    if (request_.prompts.empty()) return;
    for (const ReferenceEntry& entry : entries) {
      const Prompt& given = request_.prompts[entry.input_index % request_.prompts.size()];
      if (!entry.selected || same_prompt(given, entry)) continue;
      const std::string message = "input " + std::to_string(entry.input_index) +
                                  ": the prompt of " + given.origin +
                                  " is not the one recorded in " + entry.path.string();
      if (request_.prompts_must_match) {
        throw_usage(message + "; a replay uses the recorded prompts, leave prompts out");
      }
      session_.warn(message + "; the recorded one is replayed");
    }
  }

  static std::uint64_t count_selected(const std::vector<ReferenceSet>& references) {
    std::uint64_t count = 0;
    for (const ReferenceSet& reference : references) {
      count += static_cast<std::uint64_t>(
          std::ranges::count_if(reference.entries, &ReferenceEntry::selected));
    }
    return count;
  }

  void log_kept(const RecordingLedger& ledger, std::uint64_t planned) {
    if (!engine_ready_) return;
    if (session_.services().stop.stop_requested()) {
      session_.warn(std::to_string(replayed_) + " of " + std::to_string(planned) +
                    " inputs were replayed");
    }
    if (request_.save) {
      ledger.log_kept(session_.observer(), session_.base_dir() / session_.device_label());
    }
  }

  void run_model(const ModelFile& file, const std::vector<ReferenceSet>& references,
                 RecordingLedger& ledger) {
    const std::unique_ptr<engine::Model> model = session_.load_model(file);
    engine_ready_ = true;
    if (request_.save) session_.lock_recordings(model->info());
    prepare(*model, references);
    for (const auto& [entries, batches] : references) {
      check_all(*model, entries);
      compare_devices(*model, entries, batches);
      for (std::size_t b = 0; b < batches.size(); ++b) {
        run_batch(*model, entries, batches[b],
                  "batch " + std::to_string(b + 1) + "/" + std::to_string(batches.size()), ledger);
      }
    }
  }

  // What all batches of a model share.
  void prepare(const engine::Model& model, const std::vector<ReferenceSet>& references) {
    const analysis::Gate gate =
        session_.verdicts().gate_for(gate_context(model, references.front().entries.front()));
    modes_ = replay_modes(request_.replay_modes, gate, parallel());
    block_positions_ = 1;
    for (const ReferenceSet& reference : references) {
      block_positions_ = std::max(block_positions_, block_positions_for(reference.entries));
    }
  }

  [[nodiscard]] bool parallel() const { return request_.replay_shape == ReplayShape::kParallel; }

  // Before anything runs.
  void check_all(const engine::Model& model, const std::vector<ReferenceEntry>& entries) {
    for (const ReferenceEntry& entry : entries) {
      static_cast<void>(replay_cache(request_.kv_cache, entry));
      note_differences(model.info(),
                       check_same_model(identity_of(*entry.recording), identity_of(model.info()),
                                        request_.allow_different_weights));
      if (request_.save && entry.selected) {
        const fs::path target = target_of(model, entry);
        session_.check_not_recorded(target);
        if (fs::exists(target) && fs::equivalent(target, entry.path)) {
          throw_usage(target.string() + " is the recording that is replayed: choose another " +
                      setting("out"));
        }
      }
    }
  }

  void note_differences(const engine::ModelInfo& model, const ModelDifferences& found) {
    const auto note = [&](bool differs, const std::string& what, std::set<std::string>& slugs) {
      if (!differs || !slugs.insert(model.slug).second) return;
      session_.warn(model.model_id + " has " + what +
                    " than the recordings: the comparison is of two models");
    };
    note(found.weights, "other weights", different_weights_);
    note(found.config, "another config", different_config_);
  }

  [[nodiscard]] fs::path target_of(const engine::Model& model, const ReferenceEntry& entry) {
    return session_.recording_path(model.info().slug, entry.batch_size, entry.input_index);
  }

  void run_batch(engine::Model& model, const std::vector<ReferenceEntry>& entries,
                 const PlannedBatch& batch, const std::string& what, RecordingLedger& ledger) {
    begin_recording(model, entries, batch, ledger);
    BatchReplayOptions options;
    options.modes = modes_;
    options.kv_cache = request_.kv_cache;
    options.allow_different_weights = request_.allow_different_weights;
    options.flip_bounds = [&](const ReferenceEntry& entry) {
      return session_.verdicts().gate_for(gate_context(model, entry)).flip_bounds;
    };
    options.parallel = parallel();
    options.parallel_memory_bytes = request_.parallel_memory_bytes;
    options.block_positions = block_positions_;
    const std::string batch_id = format::to_string(format::random_uuid());
    const MakeRecorder recorder = [&](const ReferenceEntry& entry,
                                      const format::RowSource& reference, std::size_t row) {
      return make_recorder(model, batch, entry, reference, row, batch_id);
    };
    const bool several = options.modes.size() > 1;
    const BatchReplayResult result = replay_batch(
        model, entries, batch, options, request_.save ? recorder : MakeRecorder(),
        [&](format::ReplayMode mode) {
          return session_.progress(what +
                                   (several ? ", " + std::string(replay_mode_name(mode)) : ""));
        },
        session_.observer());
    ledger.end_batch();
    session_.add_batch_seconds(result.prefill_seconds, result.decode_seconds);
    session_.add_cache_use(result.kv_cache, result.cache_use);
    for (const ReplayedRow& row : result.rows) report_row(model, row);
  }

  void begin_recording(engine::Model& model, const std::vector<ReferenceEntry>& entries,
                       const PlannedBatch& batch, RecordingLedger& ledger) {
    std::vector<fs::path> paths;
    for (const PlannedRow& planned : batch.rows) {
      const ReferenceEntry& entry = entries[planned.entry];
      if (request_.save && !planned.stand_in && entry.selected) {
        paths.push_back(target_of(model, entry));
      }
      if (!planned.stand_in && entry.selected && !entry.run &&
          request_.replay_shape == ReplayShape::kRecorded) {
        session_.warn(entry.path.string() +
                      " does not say in which batch it was recorded: replayed alone");
      }
    }
    ledger.begin_batch(paths);
  }

  [[nodiscard]] analysis::GateContext gate_context(const engine::Model& model,
                                                   const ReferenceEntry& entry) {
    return replay_context(model.info(), session_.device_label(), request_.kv_cache, entry);
  }

  // META of this device's own row, as it is recorded and compared with the reference's.
  [[nodiscard]] json live_meta(const engine::Model& model, const PlannedBatch& batch,
                               const ReferenceEntry& entry, std::size_t row,
                               const std::string& batch_id) {
    MetaParts meta;
    meta.kvtool_version = KVTOOL_VERSION;
    meta.created_utc = session_.created_utc();
    meta.model = &model.info();
    meta.device = &session_.engine().device();
    meta.device_label = session_.device_label();
    meta.kv_cache = replay_cache(request_.kv_cache, entry);
    meta.run =
        entry.run.value_or(format::RunMeta{.batch_id = {}, .input_index = entry.input_index});
    meta.run.batch_id = batch_id;
    meta.run.batch_size = entry.batch_size;
    // The rows of a parallel replay are no batch: none pads another.
    meta.run.row = parallel() ? 0 : row;
    meta.run.rows = parallel() ? 1 : batch.rows.size();
    meta.run.padded_length = parallel() ? entry.prompt_length : batch.padded_length;
    meta.run.padding = meta.run.padded_length - entry.prompt_length;
    meta.run.cache_capacity =
        parallel() ? entry.prompt_length + entry.num_steps : batch.cache_capacity;
    meta.prompt = entry.prompt_meta;
    meta.replay_of = {{"path", entry.path.string()},
                      {"device", entry.device_label},
                      {"mode", replay_mode_name(modes_.front())},
                      {"parallel", parallel()}};
    return make_meta(meta);
  }

  [[nodiscard]] std::unique_ptr<format::RowSink> make_recorder(
      const engine::Model& model, const PlannedBatch& batch, const ReferenceEntry& entry,
      const format::RowSource& reference, std::size_t row, const std::string& batch_id) {
    format::RecordingHeader header = reference.header();
    json meta = live_meta(model, batch, entry, row, batch_id);
    meta["replay_of"]["uuid"] = format::to_string(header.uuid);
    header.uuid = format::random_uuid();
    header.save_mode = request_.save_mode.value_or(header.save_mode);
    header.model_sha256 = model.info().weights_sha256;
    header.geometry = model.info().geometry;
    header.logits_dtype = model.info().logits_dtype;
    return format::make_recording_sink(
        {.path = target_of(model, entry),
         .header = std::move(header),
         .meta_json = meta.dump(-1, ' ', false, json::error_handler_t::replace),
         .prompt = entry.prompt_ids,
         .token_text = [&model](std::int32_t token) { return model.token_bytes(token); },
         .writer = session_.writer_options()});
  }

  void report_row(const engine::Model& model, const ReplayedRow& row) {
    const ReferenceEntry& entry = *row.entry;
    InputResult input;
    input.model_slug = model.info().slug;
    input.batch_size = entry.batch_size;
    input.rows = parallel() ? 1 : row.rows;
    input.row = parallel() ? 0 : row.row;
    input.input_index = entry.input_index;
    input.prompt_text = recorded_prompt_text(model, entry);
    input.prompt_length = entry.prompt_length;
    input.timing = row.modes.front().timing;
    Replay& replay = input.replay.emplace();
    replay.recording = entry.path.string();
    replay.recorded_device = entry.device_label;
    replay.reference_cache = entry.kv_cache;
    replay.cache = replay_cache(request_.kv_cache, entry).to_string();
    replay.save_mode = format::save_mode_name(row.save_mode);
    replay.truncation = row.truncation;
    replay.reference_has_prefill_kv = row.reference_has_prefill_kv;
    replay.different_weights = different_weights_.contains(model.info().slug);
    replay.different_config = different_config_.contains(model.info().slug);
    replay.parallel = parallel();
    replay.modes = row.modes;
    const DeviceComparison& devices = compared_.at(&entry);
    replay.provenance = devices.provenance;
    replay.numerics = devices.numerics;
    if (request_.save) {
      const fs::path path = target_of(model, entry);
      input.saved = SavedRecording{
          path.string(), fs::file_size(path),
          std::string(format::save_mode_name(request_.save_mode.value_or(row.save_mode)))};
    }
    ++replayed_;
    session_.report_replay(gate_context(model, entry), input);
  }

  // Before the batches run: what differs may be a reason not to wait for them.
  void compare_devices(const engine::Model& model, const std::vector<ReferenceEntry>& entries,
                       const std::vector<PlannedBatch>& batches) {
    compared_.clear();
    analysis::ProvenanceSummary summary;
    bool same_policy = true;
    for (const PlannedBatch& batch : batches) {
      for (std::size_t row = 0; row < batch.rows.size(); ++row) {
        const ReferenceEntry& entry = entries[batch.rows[row].entry];
        if (batch.rows[row].stand_in || !entry.selected) continue;
        const json& recorded = entry.recording->meta();
        const json live = live_meta(model, batch, entry, row, {});
        DeviceComparison& devices = compared_[&entry];
        devices.provenance = analysis::compare_provenance(recorded, live);
        devices.numerics = analysis::compare_numerics(recorded, live, devices.provenance);
        summary.add(devices.provenance);
        same_policy = same_policy && devices.numerics.policy.equal;
      }
    }
    warn_provenance(summary.build());
    if (!same_policy || says_same_policy_) return;
    session_.observer().log(LogLevel::kInfo, "same numerical policy as the recordings");
    says_same_policy_ = true;
  }

  struct DeviceComparison {
    std::vector<analysis::ProvenanceDifference> provenance;
    analysis::NumericsAgreement numerics;
  };

  // Once for each difference of the whole run.
  void warn_provenance(const std::vector<analysis::ProvenanceDifference>& differences) {
    for (const analysis::ProvenanceDifference& difference : differences) {
      const std::string text = difference.title() + ": recorded " + difference.recorded +
                               ", here " + difference.live + " (" + difference.why + ")";
      if (warned_.insert(text).second) session_.warn(text);
    }
  }

  static std::string recorded_prompt_text(const engine::Model& model, const ReferenceEntry& entry) {
    return entry.prompt_text ? *entry.prompt_text : text_of(model, entry.prompt_ids);
  }

  Session& session_;
  const Request& request_;
  OpenRecordings recordings_;
  bool engine_ready_ = false;
  std::uint64_t replayed_ = 0;
  std::vector<format::ReplayMode> modes_;
  std::uint64_t block_positions_ = 1;  // one for all inputs of a model, so that they can be pooled
  std::set<std::string> different_weights_;                     // slugs
  std::set<std::string> different_config_;                      // slugs
  std::map<const ReferenceEntry*, DeviceComparison> compared_;  // of the set in hand
  std::set<std::string> warned_;
  bool says_same_policy_ = false;
};

}  // namespace

Summary run_replay(const Request& request, const Services& services, Observer& observer) {
  Session session(services, request, observer);
  ReplayRun(session).run();
  session.finish();
  return session.summary();
}

}  // namespace kvtool::run
