#include "session.h"

#include <algorithm>
#include <system_error>

#include <nlohmann/json.hpp>

#include "kvtool/base/error.h"
#include "kvtool/base/file.h"
#include "kvtool/base/setting.h"
#include "kvtool/format/meta.h"
#include "kvtool/format/reader.h"
#include "kvtool/format/recording.h"
#include "model_check.h"
#include "resume.h"
#include "run_meta.h"

namespace kvtool::run {
namespace {

// Nothing where it does not say, or is no recording.
std::optional<ModelIdentity> recorded_model(const std::filesystem::path& path) {
  try {
    ModelIdentity model = identity_of(format::Recording::open(path));
    return model.id.empty() ? std::nullopt : std::optional(std::move(model));
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kCorrupt) throw;
    return std::nullopt;  // whoever reads or replaces it will say so
  }
}

// Any one finished recording says which model the folder is of.
void check_folder_of(const std::filesystem::path& folder, const engine::ModelInfo& model,
                     bool resume) {
  for (const std::filesystem::path& path : list_folder(folder)) {
    if (!is_recording_path(path) || is_partial_path(path)) continue;
    const std::optional<ModelIdentity> recorded = recorded_model(path);
    if (!recorded) continue;
    if (recorded->id == model.model_id) {
      if (resume) check_same_config(path, recorded->exported, exporter_members(model));
      return;
    }
    throw_usage(folder.string() + " holds recordings of the model '" + recorded->id +
                "', this run is of '" + model.model_id +
                "' (names of folders keep only the letters and digits of an id): "
                "choose another " +
                setting("out") +
                ", or export one of them again with "
                "tools/export_model.py --model-id NAME");
  }
}

// Before a model is loaded, not after it.
void check_length(const std::filesystem::path& folder) {
  std::error_code error;
  static_cast<void>(std::filesystem::symlink_status(folder, error));
  if (error != std::errc::filename_too_long) return;
  throw_usage(setting("out") + " " + shortened_path(folder) + ": " + error.message());
}

}  // namespace

Session::Session(const Services& services, const Request& request, Observer& observer)
    : services_(services),
      request_(request),
      observer_(observer),
      verdicts_(request.gate),
      started_(std::chrono::steady_clock::now()) {
  if (!request.save) return;
  const std::optional<std::filesystem::path> newest =
      request.resume ? newest_output_folder(request.base_dir) : std::nullopt;
  base_dir_ = newest ? *newest : expand_output_pattern(request.base_dir, services.now());
  check_length(base_dir_);
  if (newest) observer.log(LogLevel::kInfo, "resuming in " + newest->string());
}

engine::Engine& Session::engine() {
  if (engine_) return *engine_;
  observer_.log(LogLevel::kDebug, "opening the engine on device " + request_.device);
  engine_ = services_.open_engine(request_.cpu_isa,
                                  {.device = request_.device, .threads = request_.threads});
  const engine::DeviceInfo& device = engine_->device();
  device_label_ =
      request_.device_label.empty() ? run::device_label(device.label) : request_.device_label;
  observer_.device({device_label_, device.type, device.name, std::string(engine_->torch_version()),
                    device.provenance_json});
  return *engine_;
}

const std::string& Session::device_label() {
  static_cast<void>(engine());
  return device_label_;
}

std::unique_ptr<engine::Model> Session::load_model(const ModelFile& file) {
  engine::Engine& opened = engine();
  services_.stop.throw_if_requested();
  observer_.log(LogLevel::kDebug, "loading " + file.path.string());
  observer_.progress("loading " + file.path.filename().string());
  if (!file.id.empty()) check_model_id(file, opened.read_model_info(file.path.string()));
  std::unique_ptr<engine::Model> model = opened.load_model(file.path.string());
  observer_.progress_done();
  services_.stop.throw_if_requested();
  const engine::ModelInfo& info = model->info();
  const nlohmann::json exported = exporter_members(info);
  observer_.model({.id = info.model_id,
                   .slug = info.slug,
                   .path = info.path,
                   .architecture = info.architecture,
                   .dtype = info.dtype,
                   .num_layers = info.geometry.num_layers(),
                   .weights_sha256 = format::to_hex(info.weights_sha256),
                   .config_sha256 = format::text_at(exported, "config_sha256").value_or(""),
                   .graph_sha256 = format::text_at(exported, "graph_sha256").value_or("")});
  return model;
}

engine::Progress Session::progress(std::string what) {
  return [this, what = std::move(what)](std::uint64_t done, std::uint64_t total) {
    services_.stop.throw_if_requested();
    observer_.progress(what + ", step " + std::to_string(done) + "/" + std::to_string(total));
  };
}

std::filesystem::path Session::recordings_folder(const std::string& slug) {
  return base_dir_ / device_label() / slug;
}

std::filesystem::path Session::recording_path(const std::string& slug, std::uint64_t batch_size,
                                              std::uint64_t input_index) {
  return recordings_folder(slug) / recording_file_name(batch_size, input_index);
}

void Session::lock_recordings(const engine::ModelInfo& model) {
  const std::filesystem::path folder = recordings_folder(model.slug);
  if (locks_.contains(folder)) return;
  services_.files.create_directories(folder);
  locks_[folder] = services_.files.lock_folder(folder);
  if (!locks_[folder]) {
    warn(folder.string() + " is on a file system without locks: let no other kvtool write there");
  }
  if (!request_.force) check_folder_of(folder, model, request_.resume);
}

format::WriterOptions Session::writer_options() const {
  return {.file_system = &services_.files,
          .sync = request_.sync,
          .sync_every_steps = request_.sync_every_steps};
}

void Session::check_not_recorded(const std::filesystem::path& path) const {
  if (request_.force || !std::filesystem::exists(path)) return;
  throw_usage(path.string() + " exists already: choose another " + setting("out") + ", " +
              setting("force") + " to replace it" +
              (request_.from.empty() ? ", or " + setting("resume") + " to record what is missing"
                                     : std::string()));
}

std::string Session::created_utc() const { return utc_iso8601(services_.now()); }

void Session::report(const InputResult& input) {
  observer_.progress_done();
  ++summary_.inputs;
  if (!input.replay) summary_.steps += input.timing.steps;
  if (input.saved) {
    ++summary_.saved_recordings;
    summary_.saved_bytes += input.saved->bytes;
  }
  observer_.input(input);
}

void Session::report_replay(const analysis::GateContext& context, const InputResult& input) {
  for (const ModeReplay& mode : input.replay->modes) summary_.steps += mode.timing.steps;
  verdicts_.add(context, input);
  report(input);
}

void Session::add_batch_seconds(double prefill_seconds, double decode_seconds) {
  summary_.prefill_seconds += prefill_seconds;
  summary_.decode_seconds += decode_seconds;
}

void Session::add_cache_use(const cache::CacheSpec& kv_cache, const cache::CacheUse& use) {
  const std::string spec = kv_cache.to_string();
  const auto known = std::ranges::find(summary_.caches, spec, &UsedCache::spec);
  if (known == summary_.caches.end()) {
    summary_.caches.push_back({spec, use});
  } else if (use.peak_bytes > known->use.peak_bytes) {
    known->use = use;
  }
}

void Session::finish() {
  observer_.progress_done();
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - started_;
  summary_.wall_seconds = elapsed.count();
  summary_.verdicts = verdicts_.build();
  if (request_.save) summary_.saved_directory = (base_dir_ / device_label()).string();
  observer_.finish(summary_);
}

std::string text_of(const engine::Model& model, std::span<const std::int32_t> tokens) {
  std::string text;
  for (const std::int32_t token : tokens) text += model.token_bytes(token);
  return text;
}

}  // namespace kvtool::run
