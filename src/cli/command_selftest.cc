#include <spdlog/spdlog.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <system_error>

#include "command.h"
#include "kvtool/base/error.h"
#include "kvtool/cli/options.h"
#include "kvtool/cli/settings.h"
#include "kvtool/format/reader.h"
#include "model_check.h"
#include "reporting.h"
#include "selftest.h"
#include "session.h"
#include "shared_engine.h"

namespace kvtool::cli {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kDefaultNewTokens = 32;
constexpr std::uint64_t kDefaultBatchSize = 2;

// Removed with all it holds when the selftest ends, however it ends.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (fs::temp_directory_path() / "kvtool_selftest_XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) {
      throw_environment("no folder for the reference can be made as " + pattern + ": " +
                        std::generic_category().message(errno));
    }
    path_ = pattern;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  [[nodiscard]] const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

// What is said about recordings that are kept does not hold for temporary ones.
class QuietLog {
 public:
  QuietLog() : before_(spdlog::get_level()) { spdlog::set_level(spdlog::level::err); }
  ~QuietLog() { spdlog::set_level(before_); }
  QuietLog(const QuietLog&) = delete;
  QuietLog& operator=(const QuietLog&) = delete;

 private:
  spdlog::level::level_enum before_;
};

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
  SelftestRun(Services& services, Settings settings, bool search, report::Reporter& reporter)
      : services_(services),
        settings_(std::move(settings)),
        search_(search),
        reporter_(reporter),
        session_(services_, settings_, reporter) {
    services_.open_engine = share_engine(services.open_engine);
  }

  int run() {
    if (settings_.models.empty()) {
      throw_usage("no model: give --model models/MODEL.pt, or \"models\" in the configuration");
    }
    bool passed = true;
    for (const std::string& given : settings_.models) {
      passed = run_model(resolve_model(given, settings_.config_folder)) && passed;
    }
    session_.finish();
    return passed ? 0 : 1;
  }

 private:
  bool run_model(const ModelFile& file) {
    const std::unique_ptr<engine::Model> model = session_.load_model(file);
    bool passed = true;
    const auto test = [&](const std::vector<SelftestReference>& references,
                          const std::string& words) {
      for (const SelftestReference& reference : references) {
        check_belong(reference, *model);
        report::SelftestResult result =
            run_selftest(session_, *model, reference, options_for(*model));
        result.reference = words;
        passed = passed && result.passed();
        reporter_.selftest(result);
      }
    };
    if (!settings_.from.empty()) {
      test(references_below(settings_.from, file), settings_.from);
      return passed;
    }
    const TemporaryFolder folder;
    record(file, *model, folder.path());
    const fs::path recorded = folder.path() / session_.device_label() / model->info().slug;
    test(references_below(recorded.string(), file), "recorded on this device for the selftest");
    return passed;
  }

  // By the command that records any other reference, in this one's engine.
  void record(const ModelFile& file, const engine::Model& model, const fs::path& folder) {
    Settings recording = settings_;
    recording.models = {file.path.string()};
    recording.save = true;
    recording.save_mode = format::SaveMode::kDelta;
    recording.base_dir = folder.string();
    recording.ignore_eos = true;  // a fault needs steps to show in
    if (recording.prompts.empty()) recording.prompts = default_prompts(model.info().vocab_size);
    if (recording.batch_sizes.empty()) recording.batch_sizes = {kDefaultBatchSize};
    const std::unique_ptr<report::Reporter> nobody = report::make_reporter_list({});
    const QuietLog quiet;
    Session session(services_, recording, *nobody);
    run_generation(session);
  }

  // One for each batch size.
  [[nodiscard]] std::vector<SelftestReference> references_below(const std::string& from,
                                                                const ModelFile& file) const {
    const ReferenceSource source = find_reference(from, settings_.ref_dir);
    ReferenceSelection selection;
    selection.batch_size = settings_.from_batch_size;
    selection.batch_sizes = settings_.batch_sizes;
    if (!settings_.from.empty() && !source.file) selection.num_inputs = settings_.request_number;
    std::vector<SelftestReference> references;
    for (auto& entries : select_references(source, folder_of(source, file), selection)) {
      SelftestReference& reference = references.emplace_back();
      reference.batches = plan_batches(entries, settings_.batch_shape);
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

  static void check_belong(const SelftestReference& reference, const engine::Model& model) {
    for (const ReferenceEntry& entry : reference.entries) {
      (void)check_same_model(identity_of(format::Recording::open(entry.path)),
                             identity_of(model.info()), /*allow_different_weights=*/false);
    }
  }

  [[nodiscard]] SelftestOptions options_for(const engine::Model& model) const {
    const DType kv = model.info().geometry.layer(0).key_dtype;
    return {.modes = settings_.replay_modes,
            .gate = settings_.gate.value_or(analysis::GateSpec::builtin(gate_for_kv(kv))),
            .search = search_};
  }

  Services services_;  // a copy, whose engine is shared
  Settings settings_;
  bool search_;
  report::Reporter& reporter_;
  Session session_;
};

class SelftestCommand : public Command {
 public:
  [[nodiscard]] const char* name() const override { return "selftest"; }
  [[nodiscard]] const char* summary() const override {
    return "Prove that the gate can fail: put faults into a replay, one at a time";
  }

  void declare(CLI::App& app) override {
    add_common_options(app, options_);
    app.get_option("--max-new-tokens")
        ->description("Tokens of the reference that is recorded (default 32)");
    app.get_option("--batch-size")
        ->description(
            "Inputs that run together; several sizes run one after the other (default 2)");
    app.remove_option(app.get_option("--ignore-eos"));
    declare_reference(app);
    declare_test(app);
    add_report_options(app, options_.reports);
    app.footer(R"(A gate that passes says little until it is known that it can fail. First the
replay without a fault must pass. Then each fault is put into the middle layer's
K/V of every decode step (or of one) of a live replay, and must be caught:
  scaled-values       V x 1.01
  rotated-keys        keys rotated to the next position
  swapped-heads       KV heads 0 and 1 swapped
  stale-row           one row not written
  unscaled-int8-keys  K quantized to 8 bits, its scale lost
  nonfinite           one NaN
Faults with a strength are then made smaller until the gate lets them pass: the
smallest one still caught is the resolution of the gate. A strength of s stores
right + s x (wrong - right).

Exit status: 0 all faults caught, 1 one passed the gate or the replay without a
fault did not, 2 usage, 3 the recordings belong to another model, 4 a file is
damaged, 5 model, device or engine; 130 after Ctrl-C.

Examples:
    kvtool selftest --model models/MODEL.pt
    kvtool selftest --model models/MODEL.pt --gate my_gate.json --quick \
        --junit selftest.xml
  Against the noise of another device:
    kvtool selftest --model models/MODEL.pt --from NVIDIA_H200)");
  }

  int execute(Services& services) override {
    Settings settings = resolve_settings(options_, Action::kGenerate, name());
    // What a configuration says of replays and lengths is meant for longer runs.
    settings.max_new_tokens = options_.max_new_tokens.value_or(kDefaultNewTokens);
    settings.from = options_.from.value_or("");
    if (options_.modes.empty()) settings.replay_modes.clear();
    const ReportingOptions reporting{name(), settings.reports, settings.quiet, settings.verbose};
    return with_reporter(services, reporting, [&](report::Reporter& reporter) {
      return SelftestRun(services, std::move(settings), !quick_, reporter).run();
    });
  }

 private:
  void declare_reference(CLI::App& app) {
    const char* group = "Reference";
    app.add_option("--from", options_.from,
                   "Recordings to replay: a device label below --ref-dir, or the path of a .kvc "
                   "file or of a folder (default: recorded now, in a temporary folder)")
        ->option_text("LABEL|PATH")
        ->group(group);
    app.add_option("--ref-dir", options_.ref_dir,
                   "Folder of references, LABEL/MODEL/batchN_inputM.kvc (default ref_cache)")
        ->option_text("DIR")
        ->group(group);
  }

  void declare_test(CLI::App& app) {
    const char* group = "Test";
    app.add_option("--gate", options_.gate,
                   "The gate that is tested: a built-in one or a gate file (default: fp32-cross, "
                   "16bit-cross or fp8, by the type of the model's K/V)")
        ->option_text("NAME|FILE")
        ->group(group);
    app.add_option("--mode", options_.modes,
                   "How the steps are fed (default: inject and what the gate names)")
        ->option_text("MODE[,MODE...]")
        ->delimiter(',')
        ->check(CLI::IsMember({"inject", "forced", "free"}))
        ->group(group);
    app.add_flag("--quick", quick_, "Do not look for the smallest strength that is caught")
        ->group(group);
  }

  RunOptions options_;
  bool quick_ = false;
};

}  // namespace

std::unique_ptr<Command> make_selftest_command() { return std::make_unique<SelftestCommand>(); }

}  // namespace kvtool::cli
