// What the commands that run a model share: the engine, opened once, models
// loaded one after the other, progress, results and output folder.
#pragma once

#include <chrono>
#include <filesystem>
#include <map>
#include <memory>
#include <string>

#include "kvtool/cli/progress.h"
#include "kvtool/cli/services.h"
#include "kvtool/cli/settings.h"
#include "kvtool/format/writer.h"
#include "kvtool/report/reporter.h"
#include "verdicts.h"

namespace kvtool::cli {

class Session {
 public:
  Session(Services& services, const Settings& settings, report::Reporter& reporter);

  [[nodiscard]] const Settings& settings() const { return settings_; }
  [[nodiscard]] Services& services() { return services_; }

  // Opened on first use.
  [[nodiscard]] engine::Engine& engine();
  [[nodiscard]] const std::string& device_label();
  [[nodiscard]] std::unique_ptr<engine::Model> load_model(const ModelFile& file);

  // Shows `what` with the step and throws Interrupted after Ctrl-C.
  [[nodiscard]] engine::Progress progress(std::string what);

  // The base folder of this run's recordings, one timestamp for all of them.
  [[nodiscard]] const std::filesystem::path& base_dir() const { return base_dir_; }
  // BASE_DIR/DEVICE/MODEL_SLUG/batchN_inputM.kvc.
  [[nodiscard]] std::filesystem::path recording_path(const std::string& slug,
                                                     std::uint64_t batch_size,
                                                     std::uint64_t input_index);
  // Keeps other runs out of the folder of the model's recordings until this one ends.
  // Error kEnvironment, which names its process, when another run has it.
  void lock_recordings(const std::string& slug);
  // Error kUsage when the recording exists and --force was not given.
  void check_not_recorded(const std::filesystem::path& path) const;
  [[nodiscard]] format::WriterOptions writer_options() const;
  [[nodiscard]] std::string created_utc() const;

  void report(const report::InputResult& input);
  // Also judges the input's replay.
  void report_replay(const analysis::GateContext& context, const report::InputResult& input);
  [[nodiscard]] const VerdictBuilder& verdicts() const { return verdicts_; }
  void add_batch_seconds(double prefill_seconds, double decode_seconds);
  [[nodiscard]] report::Summary& summary() { return summary_; }
  // Reports the summary.
  void finish();

 private:
  Services& services_;
  const Settings& settings_;
  report::Reporter& reporter_;
  ProgressLine progress_line_;
  VerdictBuilder verdicts_;
  report::Summary summary_;
  std::filesystem::path base_dir_;
  std::string device_label_;
  std::chrono::steady_clock::time_point started_;
  std::unique_ptr<engine::Engine> engine_;
  std::map<std::filesystem::path, std::unique_ptr<FolderLock>> locks_;
};

// Tokens as text bytes.
[[nodiscard]] std::string text_of(const engine::Model& model, std::span<const std::int32_t> tokens);

// The runs themselves; session.settings() says what to do.
void run_generation(Session& session);
void run_replay(Session& session);

// The whole of generate, save, replay and run. Exit status 0, or 1 when a comparison failed.
int run_session(Services& services, const Settings& settings);

}  // namespace kvtool::cli
