// replay, and replay with saving: recordings -> batches in their recorded shape
// -> engine -> comparison, results and new recordings.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "kvtool/analysis/comparison.h"
#include "kvtool/base/error.h"
#include "kvtool/base/file.h"
#include "kvtool/cli/interrupt.h"
#include "kvtool/cli/reference.h"
#include "kvtool/cli/run_meta.h"
#include "kvtool/format/reader.h"
#include "kvtool/format/row.h"
#include "recording_ledger.h"
#include "session.h"

namespace kvtool::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// The recordings of one model and all that will be replayed of them.
struct ModelReplay {
  std::vector<std::vector<ReferenceEntry>> entries;  // per batch size
  std::vector<std::vector<PlannedBatch>> batches;    // of entries[i]
};

// One row of a batch that is about to run. Everything a sink or the engine
// refers to lives here.
struct LiveRow {
  const ReferenceEntry* entry = nullptr;
  std::unique_ptr<format::Recording> recording;
  std::unique_ptr<format::RowSource> source;
  bool reported = false;  // not a stand-in and asked for
  std::unique_ptr<analysis::RowComparator> comparator;
  std::unique_ptr<format::RowSink> recorder;
  std::unique_ptr<format::RowSink> tee;
  fs::path saved_path;
  format::SaveMode saved_mode = format::SaveMode::kDelta;

  [[nodiscard]] format::RowSink* sink() const {
    return tee ? tee.get() : static_cast<format::RowSink*>(comparator.get());
  }
};

void check_belongs(const format::Recording& recording, const engine::ModelInfo& model) {
  const format::RecordingHeader& header = recording.header();
  const auto fail = [&](const std::string& what, const std::string& recorded,
                        const std::string& loaded) {
    throw_incompatible(recording.path().string() + " does not belong to the model " +
                       model.model_id + " (" + model.path + "): " + what +
                       "\n    recorded: " + recorded + "\n    model:    " + loaded);
  };
  const auto named = [](const std::string& digest, const std::string& id,
                        const std::string& dtype) {
    return digest + (id.empty() ? "" : " (" + id + (dtype.empty() ? "" : ", " + dtype) + ")");
  };
  if (header.model_sha256 != model.weights_sha256) {
    fail("other weights (SHA-256)",
         named(format::to_hex(header.model_sha256), meta_string(recording.meta(), "model", "id"),
               meta_string(recording.meta(), "model", "dtype")),
         named(format::to_hex(model.weights_sha256), model.model_id, model.dtype));
  }
  // Equal weights can be read in two ways: Mistral is Llama with a window.
  if (const std::string recorded = meta_string(recording.meta(), "model", "architecture");
      !recorded.empty() && recorded != model.architecture) {
    fail("another architecture", recorded, model.architecture);
  }
  if (header.vocab_size != model.vocab_size) {
    fail("another vocabulary", std::to_string(header.vocab_size) + " tokens",
         std::to_string(model.vocab_size) + " tokens");
  }
  if (const std::string difference = describe_difference(header.geometry, model.geometry);
      !difference.empty()) {
    fail("another K/V geometry, " + difference,
         std::to_string(header.geometry.num_layers()) + " layers, " +
             std::to_string(header.geometry.position_bytes()) + " bytes per position",
         std::to_string(model.geometry.num_layers()) + " layers, " +
             std::to_string(model.geometry.position_bytes()) + " bytes per position");
  }
  if (header.logits_dtype != model.logits_dtype) {
    fail("another dtype of the logits", std::string(dtype_name(header.logits_dtype)),
         std::string(dtype_name(model.logits_dtype)));
  }
}

// Text and token ids can be compared without a tokenizer; messages only with
// the messages that the recording kept.
bool same_prompt(const Prompt& given, const ReferenceEntry& entry) {
  const json& recorded = entry.prompt_meta;
  const auto member = [&](const char* key) {
    return recorded.is_object() ? recorded.value(key, json()) : json();
  };
  switch (given.kind) {
    case Prompt::Kind::kTokenIds: return given.token_ids == entry.prompt_ids;
    case Prompt::Kind::kText: return member("text").is_null() || member("text") == given.text;
    case Prompt::Kind::kMessages:
      return member("messages").is_null() || member("messages") == given.messages;
  }
  return true;
}

class ReplayRun {
 public:
  explicit ReplayRun(Session& session) : session_(session), settings_(session.settings()) {}

  void run() {
    const ReferenceSource source = find_reference(settings_.from, settings_.ref_dir);
    const std::vector<ModelFile> models = choose_models(source);
    std::vector<ModelReplay> replays;
    std::uint64_t planned = 0;
    for (const ModelFile& model : models) {
      replays.push_back(plan_model(source, folder_of(source, model, models.size())));
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
  // The given models, or the exported model of the only folder of recordings.
  [[nodiscard]] std::vector<ModelFile> choose_models(const ReferenceSource& source) const {
    std::vector<ModelFile> models;
    for (const std::string& given : settings_.models) {
      models.push_back(resolve_model(given, settings_.config_folder));
    }
    if (models.size() > 1 && source.direct) keep_matching(models, source);
    if (!models.empty()) return models;
    if (source.folders.size() > 1) {
      throw_usage(settings_.from + " holds recordings of several models (" + folder_names(source) +
                  "): choose with --model");
    }
    return {exported_model_of(source)};
  }

  static std::string folder_names(const ReferenceSource& source) {
    std::string names;
    for (const ReferenceFolder& folder : source.folders) {
      names += (names.empty() ? "" : ", ") + folder.slug;
    }
    return names;
  }

  // Any one recording says which model the folder is of.
  static ReferenceEntry sample(const ReferenceSource& source) {
    if (source.file) return read_reference_entry(*source.file);
    for (const fs::path& path : list_folder(source.folders.front().path)) {
      if (is_recording_path(path)) return read_reference_entry(path);
    }
    throw_usage(source.folders.front().path.string() + " holds no recording");
  }

  static std::string slug_of(const ReferenceSource& source, const ReferenceEntry& entry) {
    return entry.model_slug.empty() ? source.folders.front().slug : entry.model_slug;
  }

  [[nodiscard]] ModelFile exported_model_of(const ReferenceSource& source) const {
    const ReferenceEntry entry = sample(source);
    const std::string slug = slug_of(source, entry);
    // The slug comes from a file and becomes a path here.
    if (slug == model_slug(slug)) {
      if (const auto model = find_exported_model(slug, settings_.config_folder)) return *model;
    }
    throw_environment("the model of " + entry.path.string() + " (" +
                      (entry.model_id.empty() ? slug : entry.model_id) + ") is not at models/" +
                      slug + ".pt: give its file with --model, or export it with\n    " +
                      export_command(entry.model_id.empty() ? "HF_ID" : entry.model_id));
  }

  void keep_matching(std::vector<ModelFile>& models, const ReferenceSource& source) const {
    const std::string slug = slug_of(source, sample(source));
    std::erase_if(models, [&](const ModelFile& model) { return model.slug != slug; });
    if (models.empty()) {
      throw_usage("none of the given models is the one of " + settings_.from + ", " + slug);
    }
  }

  [[nodiscard]] const ReferenceFolder& folder_of(const ReferenceSource& source,
                                                 const ModelFile& model,
                                                 std::size_t num_models) const {
    for (const ReferenceFolder& folder : source.folders) {
      if (folder.slug == model.slug) return folder;
    }
    // A model file may have any name; whether it fits is checked once it is loaded.
    if (source.folders.size() == 1 && num_models == 1) return source.folders.front();
    throw_usage(settings_.from + " holds no recordings of " + model.slug + ", only of " +
                folder_names(source));
  }

  [[nodiscard]] ModelReplay plan_model(const ReferenceSource& source,
                                       const ReferenceFolder& folder) const {
    ReferenceSelection selection;
    selection.batch_size = settings_.from_batch_size;
    selection.batch_sizes = settings_.batch_sizes;
    selection.num_inputs = settings_.request_number;
    if (!selection.num_inputs && !settings_.prompts.empty()) {
      selection.num_inputs = settings_.prompts.size();
    }
    if (source.file) selection.num_inputs.reset();
    ModelReplay replay;
    replay.entries = select_references(source, folder, selection);
    for (const auto& entries : replay.entries) {
      check_prompts(entries);
      replay.batches.push_back(plan_batches(entries, settings_.batch_shape));
    }
    return replay;
  }

  // The recorded prompts are what is replayed; other ones on the command line
  // are a mistake, other ones in a configuration may serve another command.
  void check_prompts(const std::vector<ReferenceEntry>& entries) const {
    if (settings_.prompts.empty()) return;
    for (const ReferenceEntry& entry : entries) {
      const Prompt& given = settings_.prompts[entry.input_index % settings_.prompts.size()];
      if (!entry.selected || same_prompt(given, entry)) continue;
      const std::string message = "input " + std::to_string(entry.input_index) +
                                  ": the prompt of " + given.origin +
                                  " is not the one recorded in " + entry.path.string();
      if (settings_.prompts_on_command_line) {
        throw_usage(message + "; a replay uses the recorded prompts, leave prompts out");
      }
      spdlog::warn("{}; the recorded one is replayed", message);
    }
  }

  static std::uint64_t count_selected(const ModelReplay& replay) {
    std::uint64_t count = 0;
    for (const auto& entries : replay.entries) {
      count += static_cast<std::uint64_t>(std::count_if(
          entries.begin(), entries.end(), [](const auto& entry) { return entry.selected; }));
    }
    return count;
  }

  void log_kept(const RecordingLedger& ledger, std::uint64_t planned) {
    if (!engine_ready_) return;
    if (interrupted()) spdlog::warn("{} of {} inputs were replayed", replayed_, planned);
    if (settings_.save) ledger.log_kept(session_.base_dir() / session_.device_label());
  }

  void run_model(const ModelFile& file, const ModelReplay& replay, RecordingLedger& ledger) {
    const std::unique_ptr<engine::Model> model = session_.load_model(file);
    engine_ready_ = true;
    for (std::size_t i = 0; i < replay.entries.size(); ++i) {
      check_all(*model, replay.entries[i]);
      for (std::size_t b = 0; b < replay.batches[i].size(); ++b) {
        run_batch(*model, replay.entries[i], replay.batches[i][b],
                  "batch " + std::to_string(b + 1) + "/" + std::to_string(replay.batches[i].size()),
                  ledger);
      }
    }
  }

  // Before anything runs.
  void check_all(const engine::Model& model, const std::vector<ReferenceEntry>& entries) {
    for (const ReferenceEntry& entry : entries) {
      check_belongs(format::Recording::open(entry.path), model.info());
      if (settings_.save && entry.selected) {
        const fs::path target = target_of(model, entry);
        session_.check_not_recorded(target);
        if (fs::exists(target) && fs::equivalent(target, entry.path)) {
          throw_usage(target.string() + " is the recording that is replayed: choose another --out");
        }
      }
    }
  }

  [[nodiscard]] fs::path target_of(const engine::Model& model, const ReferenceEntry& entry) {
    return session_.recording_path(model.info().slug, entry.batch_size, entry.input_index);
  }

  void run_batch(engine::Model& model, const std::vector<ReferenceEntry>& entries,
                 const PlannedBatch& batch, const std::string& what, RecordingLedger& ledger) {
    warn_missing(batch);
    check_capacity(model.info(), entries, batch);
    std::vector<LiveRow> rows;
    std::vector<fs::path> paths;
    for (const PlannedRow& planned : batch.rows) {
      rows.push_back(open_row(entries[planned.entry], planned));
      if (settings_.save && rows.back().reported) {
        paths.push_back(target_of(model, *rows.back().entry));
      }
    }
    ledger.begin_batch(paths);
    const std::string batch_id = format::to_string(format::random_uuid());
    for (std::size_t i = 0; settings_.save && i < rows.size(); ++i) {
      if (rows[i].reported) add_recorder(model, batch, i, batch_id, rows[i]);
    }

    engine::ReplayBatch live;
    live.padded_length = batch.padded_length;
    live.cache_capacity = batch.cache_capacity;
    std::vector<format::RowSink*> sinks;
    for (const LiveRow& row : rows) {
      live.rows.push_back({row.source.get()});
      sinks.push_back(row.sink());
    }
    const engine::ReplayResult result = model.replay(live, sinks, session_.progress(what));
    ledger.end_batch();
    session_.add_batch_seconds(result.timing);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      if (rows[i].reported) report_row(model, rows, i, result);
    }
  }

  static void warn_missing(const PlannedBatch& batch) {
    if (batch.missing.empty()) return;
    std::string names;
    for (const std::string& name : batch.missing) names += (names.empty() ? "" : ", ") + name;
    spdlog::warn(
        "a batch of {} rows lacks {}: a copy of another row stands in, its result is "
        "dropped",
        batch.rows.size(), names);
  }

  static void check_capacity(const engine::ModelInfo& model,
                             const std::vector<ReferenceEntry>& entries,
                             const PlannedBatch& batch) {
    if (model.max_positions == 0 || batch.cache_capacity <= model.max_positions) return;
    throw_incompatible(entries[batch.rows.front().entry].path.string() + " was recorded with " +
                       std::to_string(batch.cache_capacity) + " positions, but " + model.model_id +
                       " has " + std::to_string(model.max_positions));
  }

  LiveRow open_row(const ReferenceEntry& entry, const PlannedRow& planned) {
    LiveRow row;
    row.entry = &entry;
    row.recording = std::make_unique<format::Recording>(format::Recording::open(entry.path));
    row.source = format::make_row_source(*row.recording);
    row.reported = !planned.stand_in && entry.selected;
    if (!row.reported) return row;
    row.comparator = std::make_unique<analysis::RowComparator>(*row.source);
    if (!row.recording->complete()) {
      spdlog::warn("{} is truncated ({}): replaying its {} whole steps", entry.path.string(),
                   row.recording->truncation(), row.source->num_steps());
    }
    if (!entry.run && settings_.batch_shape == BatchShape::kRecorded) {
      spdlog::warn("{} does not say in which batch it was recorded: replayed alone",
                   entry.path.string());
    }
    return row;
  }

  void add_recorder(const engine::Model& model, const PlannedBatch& batch, std::size_t index,
                    const std::string& batch_id, LiveRow& row) {
    const ReferenceEntry& entry = *row.entry;
    format::RecordingHeader header = row.source->header();
    const format::Uuid reference_uuid = header.uuid;
    header.uuid = format::random_uuid();
    header.save_mode = settings_.save_mode.value_or(header.save_mode);
    MetaParts meta;
    meta.kvtool_version = KVTOOL_VERSION;
    meta.created_utc = session_.created_utc();
    meta.model = &model.info();
    meta.device = &session_.engine().device();
    meta.device_label = session_.device_label();
    meta.run = entry.run.value_or(RunMeta{.batch_id = {}, .input_index = entry.input_index});
    meta.run.batch_id = batch_id;
    meta.run.batch_size = entry.batch_size;
    meta.run.row = index;
    meta.run.rows = batch.rows.size();
    meta.run.padded_length = batch.padded_length;
    meta.run.padding = batch.padded_length - header.prompt_length;
    meta.run.cache_capacity = batch.cache_capacity;
    meta.prompt = entry.prompt_meta;
    meta.replay_of = {{"uuid", format::to_string(reference_uuid)},
                      {"path", entry.path.string()},
                      {"device", meta_string(row.recording->meta(), "device", "label")}};
    row.saved_path = target_of(model, entry);
    row.saved_mode = header.save_mode;
    row.recorder = format::make_recording_sink(
        {.path = row.saved_path,
         .header = std::move(header),
         .meta_json = make_meta(meta).dump(-1, ' ', false, json::error_handler_t::replace),
         .prompt = entry.prompt_ids,
         .token_text = [&model](std::int32_t token) { return model.token_bytes(token); },
         .writer = {}});
    row.tee = format::make_tee_sink({row.comparator.get(), row.recorder.get()});
  }

  void report_row(const engine::Model& model, const std::vector<LiveRow>& rows, std::size_t index,
                  const engine::ReplayResult& result) {
    const LiveRow& row = rows[index];
    const ReferenceEntry& entry = *row.entry;
    const analysis::RowComparison& comparison = row.comparator->result();
    report::InputResult input;
    input.model_slug = model.info().slug;
    input.batch_size = entry.batch_size;
    input.rows = rows.size();
    input.row = index;
    input.input_index = entry.input_index;
    input.prompt_text = recorded_prompt_text(model, entry);
    input.prompt_length = entry.prompt_length;
    input.timing = {result.timing.prefill_seconds, result.timing.decode_seconds,
                    comparison.tokens.empty() ? 0 : comparison.tokens.size() - 1};
    report::Replay replay;
    replay.recording = entry.path.string();
    replay.recorded_device = meta_string(row.recording->meta(), "device", "label");
    replay.save_mode = format::save_mode_name(row.source->header().save_mode);
    replay.truncation = row.recording->truncation();
    replay.reference_has_prefill_kv = row.source->has_prefill_kv();
    replay.own_step_kv = index < result.own_step_kv.size() && result.own_step_kv[index];
    replay.comparison = comparison;
    for (const analysis::TokenComparison& token : comparison.tokens) {
      replay.texts.push_back(token_text(model, token));
    }
    input.replay = std::move(replay);
    if (row.recorder) {
      input.saved = report::SavedRecording{row.saved_path.string(), fs::file_size(row.saved_path),
                                           std::string(format::save_mode_name(row.saved_mode))};
    }
    ++replayed_;
    session_.report(input);
  }

  static std::string recorded_prompt_text(const engine::Model& model, const ReferenceEntry& entry) {
    if (entry.prompt_meta.is_object() && entry.prompt_meta.contains("text") &&
        entry.prompt_meta["text"].is_string()) {
      return entry.prompt_meta["text"].get<std::string>();
    }
    return text_of(model, entry.prompt_ids);
  }

  static report::TokenText token_text(const engine::Model& model,
                                      const analysis::TokenComparison& token) {
    report::TokenText text;
    text.recorded = model.token_bytes(token.recorded);
    if (token.verdict != analysis::TokenVerdict::kMatch && token.predicted >= 0) {
      text.predicted = model.token_bytes(token.predicted);
    }
    return text;
  }

  Session& session_;
  const Settings& settings_;
  bool engine_ready_ = false;
  std::uint64_t replayed_ = 0;
};

}  // namespace

void run_replay(Session& session) { ReplayRun(session).run(); }

}  // namespace kvtool::cli
