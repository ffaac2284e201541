// What the runs of a model share: the engine, opened once, models loaded one after the
// other, progress, results and output folder.
#pragma once

#include <chrono>
#include <filesystem>
#include <map>
#include <memory>
#include <string>

#include "kvtool/format/writer.h"
#include "kvtool/run/model_file.h"
#include "kvtool/run/observer.h"
#include "kvtool/run/request.h"
#include "kvtool/run/services.h"
#include "verdicts.h"

namespace kvtool::run {

class Session {
 public:
  // All three must outlive the session.
  Session(const Services& services, const Request& request, Observer& observer);

  [[nodiscard]] const Request& request() const { return request_; }
  [[nodiscard]] const Services& services() const { return services_; }
  [[nodiscard]] Observer& observer() const { return observer_; }

  // Opened on first use.
  [[nodiscard]] engine::Engine& engine();
  [[nodiscard]] const std::string& device_label();
  // Error kUsage for a file that was found by the id of another model.
  [[nodiscard]] std::unique_ptr<engine::Model> load_model(const ModelFile& file);

  // Tells `what` with the step and throws Interrupted once a stop was requested.
  [[nodiscard]] engine::Progress progress(std::string what);

  // The base folder of this run's recordings, one timestamp for all of them.
  [[nodiscard]] const std::filesystem::path& base_dir() const { return base_dir_; }
  // BASE_DIR/DEVICE/MODEL_SLUG.
  [[nodiscard]] std::filesystem::path recordings_folder(const std::string& slug);
  // batchN_inputM.kvc in it.
  [[nodiscard]] std::filesystem::path recording_path(const std::string& slug,
                                                     std::uint64_t batch_size,
                                                     std::uint64_t input_index);
  // Keeps other runs out of the folder of the model's recordings until this one ends.
  // Error kEnvironment, which names its process, when another run has it; Error kUsage
  // when it holds recordings of another model, unless they may be replaced.
  void lock_recordings(const engine::ModelInfo& model);
  // Error kUsage when the recording exists and is not to be replaced.
  void check_not_recorded(const std::filesystem::path& path) const;
  [[nodiscard]] format::WriterOptions writer_options() const;
  [[nodiscard]] std::string created_utc() const;

  void warn(const std::string& message) { observer_.log(LogLevel::kWarning, message); }
  void report(const InputResult& input);
  // Also judges the input's replay.
  void report_replay(const analysis::GateContext& context, const InputResult& input);
  [[nodiscard]] const VerdictBuilder& verdicts() const { return verdicts_; }
  void add_batch_seconds(double prefill_seconds, double decode_seconds);
  // Of one batch; the summary names the largest.
  void add_cache_use(const cache::CacheSpec& kv_cache, const cache::CacheUse& use);
  [[nodiscard]] Summary& summary() { return summary_; }
  // Tells the summary.
  void finish();

 private:
  const Services& services_;
  const Request& request_;
  Observer& observer_;
  VerdictBuilder verdicts_;
  Summary summary_;
  std::filesystem::path base_dir_;
  std::string device_label_;
  std::chrono::steady_clock::time_point started_;
  std::unique_ptr<engine::Engine> engine_;
  std::map<std::filesystem::path, std::unique_ptr<FolderLock>> locks_;
};

// Tokens as text bytes.
[[nodiscard]] std::string text_of(const engine::Model& model, std::span<const std::int32_t> tokens);

}  // namespace kvtool::run
