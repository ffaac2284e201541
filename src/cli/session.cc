#include "session.h"

#include <spdlog/spdlog.h>

#include "kvtool/base/error.h"
#include "kvtool/cli/interrupt.h"
#include "kvtool/format/recording.h"
#include "reporting.h"

namespace kvtool::cli {

Session::Session(Services& services, const Settings& settings, report::Reporter& reporter)
    : services_(services),
      settings_(settings),
      reporter_(reporter),
      progress_line_(services.err, services.err_is_terminal && !settings.quiet),
      verdicts_(settings.gate),
      started_(std::chrono::steady_clock::now()) {
  if (!settings.save) return;
  const std::optional<std::filesystem::path> newest =
      settings.resume ? newest_output_folder(settings.base_dir) : std::nullopt;
  base_dir_ = newest ? *newest : expand_output_pattern(settings.base_dir, services.now());
  if (newest) spdlog::info("resuming in {}", newest->string());
}

engine::Engine& Session::engine() {
  if (engine_) return *engine_;
  spdlog::debug("opening the engine on device {}", settings_.device);
  engine_ = services_.open_engine(settings_.cpu_isa,
                                  {.device = settings_.device, .threads = settings_.threads});
  const engine::DeviceInfo& device = engine_->device();
  device_label_ =
      settings_.device_label.empty() ? cli::device_label(device.label) : settings_.device_label;
  reporter_.device({device_label_, device.type, device.name, std::string(engine_->torch_version()),
                    device.provenance_json});
  return *engine_;
}

const std::string& Session::device_label() {
  static_cast<void>(engine());
  return device_label_;
}

std::unique_ptr<engine::Model> Session::load_model(const ModelFile& file) {
  engine::Engine& opened = engine();
  throw_if_interrupted();
  spdlog::debug("loading {}", file.path.string());
  progress_line_.update("loading " + file.path.filename().string());
  std::unique_ptr<engine::Model> model = opened.load_model(file.path.string());
  progress_line_.clear();
  throw_if_interrupted();
  const engine::ModelInfo& info = model->info();
  reporter_.model({info.model_id, info.slug, info.path, info.architecture, info.dtype,
                   info.geometry.num_layers(), format::to_hex(info.weights_sha256)});
  return model;
}

engine::Progress Session::progress(std::string what) {
  return [this, what = std::move(what)](std::uint64_t done, std::uint64_t total) {
    throw_if_interrupted();
    progress_line_.update(what + ", step " + std::to_string(done) + "/" + std::to_string(total));
  };
}

std::filesystem::path Session::recording_path(const std::string& slug, std::uint64_t batch_size,
                                              std::uint64_t input_index) {
  return base_dir_ / device_label() / slug / recording_file_name(batch_size, input_index);
}

void Session::lock_recordings(const std::string& slug) {
  const std::filesystem::path folder = base_dir_ / device_label() / slug;
  if (locks_.contains(folder)) return;
  services_.files.create_directories(folder);
  locks_[folder] = services_.files.lock_folder(folder);
  if (!locks_[folder]) {
    spdlog::warn("{} is on a file system without locks: let no other kvtool write there",
                 folder.string());
  }
}

format::WriterOptions Session::writer_options() const {
  return {.file_system = &services_.files,
          .sync = settings_.sync,
          .sync_every_steps = settings_.sync_every_steps};
}

void Session::check_not_recorded(const std::filesystem::path& path) const {
  if (settings_.force || !std::filesystem::exists(path)) return;
  throw_usage(path.string() + " exists already: choose another --out, --force to replace it" +
              (settings_.replay ? "" : ", or --resume to record what is missing"));
}

std::string Session::created_utc() const { return utc_iso8601(services_.now()); }

void Session::report(const report::InputResult& input) {
  progress_line_.clear();
  ++summary_.inputs;
  if (!input.replay) summary_.steps += input.timing.steps;
  if (input.saved) {
    ++summary_.saved_recordings;
    summary_.saved_bytes += input.saved->bytes;
  }
  reporter_.input(input);
}

void Session::report_replay(const analysis::GateContext& context,
                            const report::InputResult& input) {
  for (const report::ModeReplay& mode : input.replay->modes) summary_.steps += mode.timing.steps;
  verdicts_.add(context, input);
  report(input);
}

void Session::add_batch_seconds(double prefill_seconds, double decode_seconds) {
  summary_.prefill_seconds += prefill_seconds;
  summary_.decode_seconds += decode_seconds;
}

void Session::finish() {
  progress_line_.clear();
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - started_;
  summary_.wall_seconds = elapsed.count();
  summary_.verdicts = verdicts_.build();
  if (settings_.save) summary_.saved_directory = (base_dir_ / device_label()).string();
  reporter_.finish(summary_);
}

std::string text_of(const engine::Model& model, std::span<const std::int32_t> tokens) {
  std::string text;
  for (const std::int32_t token : tokens) text += model.token_bytes(token);
  return text;
}

int run_session(Services& services, const Settings& settings) {
  const ReportingOptions reporting{settings.command, settings.reports, settings.quiet,
                                   settings.verbose};
  return with_reporter(services, reporting, [&](report::Reporter& reporter) {
    Session session(services, settings, reporter);
    if (settings.replay) {
      run_replay(session);
    } else {
      run_generation(session);
    }
    session.finish();
    return session.summary().failed() ? 1 : 0;
  });
}

}  // namespace kvtool::cli
