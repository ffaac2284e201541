#include "kvtool/run/generation.h"

#include <algorithm>
#include <list>
#include <map>
#include <nlohmann/json.hpp>
#include <span>
#include <utility>

#include "applied_check.h"
#include "kvtool/base/error.h"
#include "kvtool/base/file.h"
#include "kvtool/base/setting.h"
#include "kvtool/base/text.h"
#include "kvtool/format/recording_check.h"
#include "kvtool/format/row.h"
#include "recording_ledger.h"
#include "resume.h"
#include "run_meta.h"
#include "session.h"

namespace kvtool::run {
namespace {

namespace fs = std::filesystem;

// One batch: inputs [first, first + rows) of all.
struct BatchPlan {
  std::uint64_t batch_size = 1;
  std::uint64_t index = 0;
  std::uint64_t first = 0;
  std::uint64_t rows = 0;
  std::uint64_t padded_length = 0;
  std::string id = {};
  // By row: a recording of an earlier run is there and stays.
  std::vector<bool> kept = {};

  [[nodiscard]] bool all_kept() const { return std::ranges::find(kept, false) == kept.end(); }
};

// Where a batch stands: the size's place among those of the run, then its index.
using BatchPlace = std::pair<std::size_t, std::uint64_t>;

// Prompts repeat, and millions of inputs may be asked for: each is what its prompt is.
struct EncodedInput {
  const Prompt* prompt = nullptr;
  const EncodedPrompt* encoded = nullptr;
};

std::vector<std::uint64_t> batch_sizes(const Request& request) {
  return request.batch_sizes.empty() ? std::vector<std::uint64_t>{1} : request.batch_sizes;
}

std::uint64_t num_inputs(const Request& request) {
  return request.request_number.value_or(request.prompts.size());
}

void check_has_prompts(const Request& request) {
  if (!request.prompts.empty()) return;
  throw_usage("no prompt: give one with " + setting("prompt"));
}

std::vector<ModelFile> models_to_run(const Request& request) {
  if (request.models.empty()) throw_usage("no model: give one with " + setting("model"));
  std::vector<ModelFile> models;
  for (const std::string& given : request.models) {
    models.push_back(resolve_model(given, request.config_folder));
  }
  return models;
}

void check_vocabulary(const EncodedInput& input, std::uint64_t index,
                      const engine::ModelInfo& model) {
  for (const std::int32_t id : input.encoded->token_ids) {
    if (id >= 0 && static_cast<std::uint32_t>(id) < model.vocab_size) continue;
    throw_usage("input " + std::to_string(index) + " (" + input.prompt->origin + "): token id " +
                std::to_string(id) + " is outside the vocabulary of " + model.model_id + " (0 to " +
                std::to_string(model.vocab_size - 1) + ")");
  }
}

// Every batch is as long as its longest prompt: what fits alone fits in any.
void check_positions(const EncodedInput& input, std::uint64_t index, const Request& request,
                     const engine::ModelInfo& model) {
  const std::uint64_t length = input.encoded->token_ids.size();
  if (model.max_positions == 0) return;
  if (length > model.max_positions) {
    throw_usage("input " + std::to_string(index) + " (" + input.prompt->origin +
                ") has a prompt of " + std::to_string(length) + " tokens, but " + model.model_id +
                " has " + std::to_string(model.max_positions) + " positions: shorten the prompt");
  }
  const std::uint64_t needed = length + request.max_new_tokens - 1;
  if (needed > model.max_positions) {
    throw_usage("input " + std::to_string(index) + " (" + input.prompt->origin + "): a prompt of " +
                std::to_string(length) + " tokens and " + std::to_string(request.max_new_tokens) +
                " new ones need " + std::to_string(needed) + " positions, but " + model.model_id +
                " has " + std::to_string(model.max_positions) + ": use " +
                setting("max_new_tokens") + " " + std::to_string(model.max_positions - length + 1) +
                " at most, or a shorter prompt");
  }
}

std::uint64_t longest_prompt(std::span<const engine::Input> inputs) {
  std::size_t longest = 0;
  for (const engine::Input& input : inputs) longest = std::max(longest, input.token_ids.size());
  return longest;
}

class GenerationRun {
 public:
  explicit GenerationRun(Session& session) : session_(session), request_(session.request()) {}

  void run() {
    check_has_prompts(request_);
    const std::vector<ModelFile> models = models_to_run(request_);
    if (request_.save && models.size() > 1) check_folders_differ(models);
    RecordingLedger ledger(models.size() * sizes_.size() * num_inputs_);
    try {
      for (const ModelFile& model : models) run_model(model, ledger);
    } catch (...) {
      if (request_.save && engine_ready_) {
        ledger.log_kept(session_.observer(), session_.base_dir() / session_.device_label(),
                        "; the same command with " + setting("resume") + " records the rest");
      }
      throw;
    }
  }

 private:
  // Two models whose recordings would have the same names.
  void check_folders_differ(const std::vector<ModelFile>& models) {
    std::map<std::string, std::string> ids;  // by slug
    for (const ModelFile& file : models) {
      const engine::ModelInfo info = session_.engine().read_model_info(file.path.string());
      check_model_id(file, info);
      const auto [other, is_new] = ids.emplace(info.slug, info.model_id);
      if (is_new) continue;
      throw_usage("the models '" + other->second + "' and '" + info.model_id +
                  "' of this run would be recorded in the same folder, " + info.slug +
                  ": record one " + setting("model") + " at a time, each with its own " +
                  setting("out") +
                  ", or export one of them again with tools/export_model.py --model-id NAME");
    }
  }

  void run_model(const ModelFile& file, RecordingLedger& ledger) {
    encoded_ = encode_prompts(request_.prompts, file.path, session_.services().encoder,
                              clock_to_continue(file));
    warn_of_prompts(encoded_);
    const std::unique_ptr<engine::Model> model = session_.load_model(file);
    engine_ready_ = true;
    check_inputs(model->info());
    kept_.clear();
    if (request_.save) prepare_folder(*model);
    for (std::size_t size = 0; size < sizes_.size(); ++size) {
      for (std::uint64_t index = 0; index < num_batches(size); ++index) {
        const auto kept = kept_.find({size, index});
        run_batch(*model, kept == kept_.end() ? plan({size, index}) : kept->second,
                  num_batches(size), ledger);
      }
    }
  }

  // The time that chat templates saw in the run that is to be continued.
  [[nodiscard]] std::string clock_to_continue(const ModelFile& file) {
    const bool has_chats = std::ranges::any_of(request_.prompts, [](const Prompt& prompt) {
      return prompt.kind == Prompt::Kind::kMessages;
    });
    if (!request_.resume || !has_chats) return {};
    const std::string slug = session_.engine().read_model_info(file.path.string()).slug;
    const std::uint64_t inputs = std::min<std::uint64_t>(num_inputs_, request_.prompts.size());
    for (const std::uint64_t size : sizes_) {
      for (std::uint64_t index = 0; index < inputs; ++index) {
        std::string clock = recorded_clock(session_.recording_path(slug, size, index));
        if (!clock.empty()) return clock;
      }
    }
    return {};
  }

  void warn_of_prompts(const std::vector<EncodedPrompt>& encoded) {
    std::map<std::string, std::vector<std::size_t>> warnings;
    for (std::size_t i = 0; i < encoded.size(); ++i) {
      for (const std::string& warning : encoded[i].warnings) warnings[warning].push_back(i);
      if (request_.save && !encoded[i].clock.empty()) {
        warnings["the chat template reads the clock (" + encoded[i].clock +
                 "): another run has other prompts; " + setting("resume") +
                 " goes on with this time"]
            .push_back(i);
      }
    }
    for (const auto& [warning, prompts] : warnings) {
      const std::string more =
          prompts.size() == 1 ? "" : " and " + counted(prompts.size() - 1, "more prompt");
      session_.warn(request_.prompts[prompts.front()].origin + more + ": " + warning);
    }
  }

  [[nodiscard]] EncodedInput input(std::uint64_t index) const {
    const std::size_t prompt = index % request_.prompts.size();
    return {&request_.prompts[prompt], &encoded_[prompt]};
  }

  [[nodiscard]] std::uint64_t num_batches(std::size_t size) const {
    return (num_inputs_ + sizes_[size] - 1) / sizes_[size];
  }

  // Made when it is its turn: a run may have millions.
  [[nodiscard]] BatchPlan plan(BatchPlace place) const {
    const std::uint64_t size = sizes_[place.first];
    BatchPlan batch{.batch_size = size,
                    .index = place.second,
                    .first = place.second * size,
                    .id = format::to_string(format::random_uuid())};
    batch.rows = std::min(size, num_inputs_ - batch.first);
    batch.kept.assign(batch.rows, false);
    for (std::uint64_t i = batch.first; i < batch.first + batch.rows; ++i) {
      batch.padded_length =
          std::max<std::uint64_t>(batch.padded_length, input(i).encoded->token_ids.size());
    }
    return batch;
  }

  // All before the first token is generated. The first inputs have all prompts.
  void check_inputs(const engine::ModelInfo& model) const {
    const std::uint64_t distinct = std::min<std::uint64_t>(num_inputs_, request_.prompts.size());
    for (std::uint64_t i = 0; i < distinct; ++i) check_vocabulary(input(i), i, model);
    for (std::uint64_t i = 0; i < distinct; ++i) check_positions(input(i), i, request_, model);
  }

  // The folder is this run's, and what stands in it may stay or be replaced.
  void prepare_folder(const engine::Model& model) {
    session_.lock_recordings(model.info());
    std::uint64_t kept = 0;
    for (const auto& [place, rows] : recorded_rows(model.info())) {
      session_.services().stop.throw_if_requested();
      BatchPlan batch = plan(place);
      if (!request_.resume) {
        session_.check_not_recorded(path_of(batch, batch.first + rows.front(), model.info()));
        continue;
      }
      find_kept(model, rows, batch);
      kept += static_cast<std::uint64_t>(std::ranges::count(batch.kept, true));
      kept_.emplace(place, std::move(batch));
    }
    if (request_.resume) {
      session_.observer().log(LogLevel::kInfo, std::to_string(kept) + " of " +
                                                   std::to_string(sizes_.size() * num_inputs_) +
                                                   " recordings of " + model.info().slug +
                                                   " are complete and kept");
    }
  }

  // Rows of this run that the folder holds: what is there is listed, since it may be little of
  // all that is planned.
  [[nodiscard]] std::map<BatchPlace, std::vector<std::uint64_t>> recorded_rows(
      const engine::ModelInfo& model) {
    std::map<BatchPlace, std::vector<std::uint64_t>> rows;
    for (const fs::path& path : list_folder(session_.recordings_folder(model.slug))) {
      const auto name = parse_recording_file_name(path.filename().string());
      if (!name || name->partial || name->input_index >= num_inputs_) continue;
      const auto size = std::ranges::find(sizes_, name->batch_size);
      if (size == sizes_.end()) continue;
      rows[{static_cast<std::size_t>(size - sizes_.begin()), name->input_index / *size}].push_back(
          name->input_index % *size);
    }
    for (auto& [place, found] : rows) std::ranges::sort(found);
    return rows;
  }

  void find_kept(const engine::Model& model, std::span<const std::uint64_t> rows,
                 BatchPlan& batch) {
    for (const std::uint64_t row : rows) {
      const std::uint64_t index = batch.first + row;
      const fs::path path = path_of(batch, index, model.info());
      const std::optional<format::Recording> recording =
          find_whole_recording(path, session_.observer());
      if (!recording) continue;
      check_same_run(*recording, {.header = make_header(model, index),
                                  .prompt = input(index).encoded->token_ids,
                                  .meta = make_input_meta(model, batch, index)});
      // A row that is recorded beside it belongs to the same batch.
      const std::string id = format::Meta::parse(recording->meta()).run.value().batch_id.value();
      if (std::ranges::count(batch.kept, true) > 0 && id != batch.id) {
        throw_usage(path.string() + ": it was recorded in another run than its neighbours in the " +
                    "batch: record them again with " + setting("force") + ", or choose another " +
                    setting("out"));
      }
      batch.id = id;
      batch.kept[row] = true;
      session_.services().files.remove(path.string() + std::string(format::kPartialSuffix));
    }
  }

  [[nodiscard]] fs::path path_of(const BatchPlan& batch, std::uint64_t index,
                                 const engine::ModelInfo& model) {
    return session_.recording_path(model.slug, batch.batch_size, index);
  }

  [[nodiscard]] std::string prompt_text(const engine::Model& model, std::uint64_t index) const {
    const EncodedPrompt& encoded = *input(index).encoded;
    return encoded.text.empty() ? text_of(model, encoded.token_ids) : encoded.text;
  }

  [[nodiscard]] format::RecordingHeader make_header(const engine::Model& model,
                                                    std::uint64_t index) const {
    const engine::ModelInfo& info = model.info();
    format::RecordingHeader header;
    header.uuid = format::random_uuid();
    header.model_sha256 = info.weights_sha256;
    header.save_mode = request_.save_mode.value_or(format::SaveMode::kDelta);
    header.logits_dtype = info.logits_dtype;
    header.vocab_size = info.vocab_size;
    header.top_k = std::min(request_.top_k, info.vocab_size);
    header.logits_sample = std::min(request_.logits_sample, info.vocab_size);
    header.prompt_length = input(index).encoded->token_ids.size();
    header.geometry = info.geometry;
    return header;
  }

  [[nodiscard]] nlohmann::json make_input_meta(const engine::Model& model, const BatchPlan& batch,
                                               std::uint64_t index) {
    MetaParts meta;
    meta.kvtool_version = KVTOOL_VERSION;
    meta.created_utc = session_.created_utc();
    meta.model = &model.info();
    meta.device = &session_.engine().device();
    meta.device_label = session_.device_label();
    meta.kv_cache = kv_cache_;
    meta.run = {.batch_id = batch.id,
                .batch_size = batch.batch_size,
                .batch_index = batch.index,
                .row = index - batch.first,
                .rows = batch.rows,
                .input_index = index,
                .padded_length = batch.padded_length,
                .padding = batch.padded_length - input(index).encoded->token_ids.size(),
                .cache_capacity = batch.padded_length + request_.max_new_tokens - 1,
                .max_new_tokens = request_.max_new_tokens,
                .ignore_eos = request_.ignore_eos};
    meta.prompt = {{"text", valid_utf8(prompt_text(model, index))}};
    if (input(index).prompt->kind == Prompt::Kind::kMessages) {
      meta.prompt["messages"] = input(index).prompt->messages;
    }
    if (input(index).prompt->cut_to_tokens != 0) {
      meta.prompt["origin"] = valid_utf8(input(index).prompt->origin);
    }
    if (const std::string& clock = input(index).encoded->clock; !clock.empty()) {
      meta.prompt["clock"] = clock;
    }
    return make_meta(meta);
  }

  std::unique_ptr<format::RowSink> make_sink(const engine::Model& model, const BatchPlan& batch,
                                             std::uint64_t index) {
    return format::make_recording_sink(
        {.path = path_of(batch, index, model.info()),
         .header = make_header(model, index),
         .meta_json = make_input_meta(model, batch, index)
                          .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace),
         .prompt = input(index).encoded->token_ids,
         .token_text = [&model](std::int32_t token) { return model.token_bytes(token); },
         .writer = session_.writer_options()});
  }

  void run_batch(engine::Model& model, const BatchPlan& batch, std::uint64_t of_batches,
                 RecordingLedger& ledger) {
    std::vector<engine::Input> inputs;
    std::vector<std::unique_ptr<format::RowSink>> sinks;
    std::vector<format::RowSink*> sink_pointers;
    std::vector<fs::path> paths;
    std::list<format::Recording> kept;
    for (std::uint64_t i = batch.first; i < batch.first + batch.rows; ++i) {
      inputs.push_back({input(i).encoded->token_ids});
      if (request_.save) paths.push_back(path_of(batch, i, model.info()));
    }
    ledger.begin_batch(paths);
    if (batch.all_kept()) return ledger.end_batch();
    for (std::uint64_t row = 0; request_.save && row < batch.rows; ++row) {
      if (batch.kept[row]) {
        // Runs again only to keep the batch's shape.
        kept.push_back(format::Recording::open(paths[row]));
        sinks.push_back(format::make_recording_check(kept.back()));
      } else {
        sinks.push_back(make_sink(model, batch, batch.first + row));
      }
      sink_pointers.push_back(sinks.back().get());
    }
    const engine::GenerateResult result =
        model.generate(inputs,
                       {.max_new_tokens = request_.max_new_tokens,
                        .ignore_eos = request_.ignore_eos,
                        .top_k = std::min(request_.top_k, model.info().vocab_size),
                        .logits_sample = std::min(request_.logits_sample, model.info().vocab_size),
                        .kv_cache = kv_cache_},
                       sink_pointers,
                       session_.progress("batch " + std::to_string(batch.index + 1) + "/" +
                                         std::to_string(of_batches) + " of size " +
                                         std::to_string(batch.batch_size)));
    check_applied(kv_cache_,
                  {.geometry = model.info().geometry,
                   .positions = longest_prompt(inputs) + result.timing.decode_steps,
                   .steps = result.timing.decode_steps,
                   .rows = inputs.size(),
                   .capacity = longest_prompt(inputs) + request_.max_new_tokens - 1},
                  result.cache_use);
    sinks.clear();
    ledger.end_batch();
    session_.add_batch_seconds(result.timing.prefill_seconds, result.timing.decode_seconds);
    session_.add_cache_use(kv_cache_, result.cache_use);
    for (std::uint64_t row = 0; row < batch.rows; ++row) report_row(model, batch, row, result);
  }

  void report_row(const engine::Model& model, const BatchPlan& batch, std::uint64_t row,
                  const engine::GenerateResult& result) {
    const std::uint64_t index = batch.first + row;
    const engine::GeneratedRow& generated = result.rows.at(row);
    InputResult shown;
    shown.model_slug = model.info().slug;
    shown.batch_size = batch.batch_size;
    shown.rows = batch.rows;
    shown.row = row;
    shown.input_index = index;
    shown.prompt_text = prompt_text(model, index);
    shown.prompt_length = input(index).encoded->token_ids.size();
    shown.timing = {result.timing.prefill_seconds, result.timing.decode_seconds,
                    generated.tokens.empty() ? 0 : generated.tokens.size() - 1,
                    result.timing.attention_seconds};
    shown.generation = Generation{generated.tokens, text_of(model, generated.tokens),
                                  std::string(stop_reason_name(generated.stop_reason))};
    if (request_.save) {
      const fs::path path = path_of(batch, index, model.info());
      const auto mode = request_.save_mode.value_or(format::SaveMode::kDelta);
      shown.saved = SavedRecording{path.string(), fs::file_size(path),
                                   std::string(format::save_mode_name(mode))};
    }
    session_.report(shown);
  }

  Session& session_;
  const Request& request_;
  const cache::CacheSpec kv_cache_ = request_.kv_cache.value_or(cache::CacheSpec());
  const std::vector<std::uint64_t> sizes_ = batch_sizes(request_);
  const std::uint64_t num_inputs_ = num_inputs(request_);
  bool engine_ready_ = false;
  std::vector<EncodedPrompt> encoded_;    // of the model that runs
  std::map<BatchPlace, BatchPlan> kept_;  // batches of which something is recorded and stays
};

}  // namespace

Summary run_generation(const Request& request, const Services& services, Observer& observer) {
  Session session(services, request, observer);
  GenerationRun(session).run();
  session.finish();
  return session.summary();
}

}  // namespace kvtool::run
