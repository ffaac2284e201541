#include "kvtool/cli/settings.h"

#include <algorithm>
#include <utility>

#include "kvtool/base/error.h"
#include "kvtool/cli/gate_choice.h"
#include "kvtool/cli/paths.h"

namespace kvtool::cli {
namespace {

namespace fs = std::filesystem;

constexpr const char* kExportedSuffix = ".pt";

Config read_config(const RunOptions& options) {
  if (options.config) return load_config(*options.config);
  if (fs::exists(kDefaultConfigFile)) return load_config(kDefaultConfigFile);
  return {};
}

void take_config(const Config& config, Settings& settings) {
  settings.config_folder = config.path.parent_path();
  settings.models = config.models;
  settings.prompts = config.prompts;
  settings.batch_sizes = config.batch_sizes;
  settings.request_number = config.request_number;
  settings.max_new_tokens = config.max_new_tokens.value_or(settings.max_new_tokens);
  if (config.force_cpu.value_or(false)) settings.device = "cpu";
  const KvCacheConfig& cache = config.kv_cache;
  settings.save_mode = cache.save_mode;
  settings.base_dir = cache.base_dir.value_or(settings.base_dir);
  settings.resume = cache.resume.value_or(false);
  settings.sync_every_steps = cache.fsync_every.value_or(0);
  settings.sync = cache.fsync.value_or(false) || settings.sync_every_steps != 0;
  settings.from = cache.load_from_device.value_or("");
  settings.ref_dir = cache.load_base_dir.value_or(settings.ref_dir);
  settings.from_batch_size = cache.load_from_batch_size;
  if (!cache.replay_modes.empty()) settings.replay_modes = cache.replay_modes;
  settings.gate = config.gate;
}

void take_prompts(const RunOptions& options, Settings& settings) {
  if (options.prompts.empty() && !options.prompts_file) return;
  settings.prompts.clear();
  settings.prompts_on_command_line = true;
  for (std::size_t i = 0; i < options.prompts.size(); ++i) {
    settings.prompts.push_back(
        text_prompt(options.prompts[i], "--prompt " + std::to_string(i + 1)));
  }
  if (!options.prompts_file) return;
  for (Prompt& prompt : load_prompts_file(*options.prompts_file)) {
    settings.prompts.push_back(std::move(prompt));
  }
}

// The command line has checked the names; one named twice runs once.
std::vector<format::ReplayMode> parse_modes(const std::vector<std::string>& names) {
  std::vector<format::ReplayMode> modes;
  for (const std::string& name : names) {
    const auto mode = format::parse_replay_mode(name);
    if (mode && std::find(modes.begin(), modes.end(), *mode) == modes.end()) {
      modes.push_back(*mode);
    }
  }
  return modes;
}

void take_options(const RunOptions& options, Settings& settings) {
  if (!options.models.empty()) settings.models = options.models;
  if (!options.batch_sizes.empty()) settings.batch_sizes = options.batch_sizes;
  if (options.request_number) settings.request_number = options.request_number;
  settings.max_new_tokens = options.max_new_tokens.value_or(settings.max_new_tokens);
  settings.ignore_eos = options.ignore_eos;
  settings.device = options.device.value_or(settings.device);
  if (options.device_label) settings.device_label = device_label(*options.device_label);
  settings.cpu_isa = options.cpu_isa;
  settings.threads = options.threads;
  if (options.save_mode) settings.save_mode = format::parse_save_mode(*options.save_mode);
  settings.base_dir = options.out.value_or(settings.base_dir);
  settings.top_k = options.top_k;
  settings.force = options.force;
  settings.resume = settings.resume || options.resume;
  settings.sync_every_steps = options.fsync_every.value_or(settings.sync_every_steps);
  settings.sync = settings.sync || options.fsync || options.fsync_every.has_value();
  settings.from = options.from.value_or(settings.from);
  settings.ref_dir = options.ref_dir.value_or(settings.ref_dir);
  if (options.from_batch_size) settings.from_batch_size = options.from_batch_size;
  if (options.batch == "1") settings.batch_shape = BatchShape::kSingle;
  if (options.parallel) settings.batch_shape = BatchShape::kParallel;
  if (options.parallel_memory_mib) {
    settings.parallel_memory_bytes = *options.parallel_memory_mib << 20;
  }
  if (!options.modes.empty()) settings.replay_modes = parse_modes(options.modes);
  if (options.gate) settings.gate = load_gate(*options.gate);
  settings.allow_different_weights = options.allow_different_weights;
  settings.reports = options.reports;
  settings.quiet = options.quiet;
  settings.verbose = options.verbose;
}

// One size twice would record the same names twice.
void remove_repeated(std::vector<std::uint64_t>& sizes) {
  std::vector<std::uint64_t> unique;
  for (const std::uint64_t size : sizes) {
    if (std::find(unique.begin(), unique.end(), size) == unique.end()) unique.push_back(size);
  }
  sizes = std::move(unique);
}

// A configuration may serve several commands; the command line means this one.
void check_resume(Action action, Settings& settings) {
  if (action == Action::kReplay) settings.resume = false;
  if (!settings.resume) return;
  if (settings.replay) {
    throw_usage("only 'save' can be resumed: repeat the replay, with --force if it saves");
  }
  if (settings.force) {
    throw_usage("kv_cache.resume keeps what is complete, --force replaces it: choose one of them");
  }
}

bool is_exported_file_name(const std::string& given) {
  return fs::path(given).extension() == kExportedSuffix;
}

ModelFile model_of_file(const fs::path& path) { return {path, model_slug(path.stem().string())}; }

}  // namespace

Settings resolve_settings(const RunOptions& options, Action action, const std::string& command) {
  Settings settings;
  settings.command = command;
  const Config config = read_config(options);
  take_config(config, settings);
  take_prompts(options, settings);
  take_options(options, settings);
  remove_repeated(settings.batch_sizes);
  switch (action) {
    case Action::kGenerate: break;
    case Action::kSave: settings.save = true; break;
    case Action::kReplay:
      settings.replay = true;
      settings.save = options.save;
      break;
    case Action::kAsConfigured:
      settings.save = config.kv_cache.save.value_or(false);
      settings.replay = config.kv_cache.load.value_or(false);
      break;
  }
  check_resume(action, settings);
  if (settings.replay && settings.from.empty()) {
    throw_usage(
        "nothing to replay: name the recordings with --from (or kv_cache.load_from_device), for "
        "example\n    kvtool replay --from NVIDIA_H200");
  }
  return settings;
}

std::string export_command(const std::string& model_id) {
  return "python3 tools/export_model.py --model " + shell_quoted(model_id) + " --dtype bfloat16";
}

std::optional<ModelFile> find_exported_model(const std::string& slug,
                                             const fs::path& config_folder) {
  for (const fs::path& folder : {fs::path("models"), config_folder / "models"}) {
    const fs::path path = folder / (slug + kExportedSuffix);
    if (fs::is_regular_file(path)) return ModelFile{path, slug};
  }
  return std::nullopt;
}

ModelFile resolve_model(const std::string& given, const fs::path& config_folder) {
  if (fs::is_regular_file(given)) return model_of_file(given);
  if (is_exported_file_name(given)) {
    const fs::path beside_config = config_folder / given;
    if (fs::is_regular_file(beside_config)) return model_of_file(beside_config);
    throw_usage("model file " + given + " does not exist");
  }
  const std::string slug = model_slug(given);
  if (slug.empty()) throw_usage("'" + given + "' is no exported file and no Hugging Face id");
  if (const auto found = find_exported_model(slug, config_folder)) return *found;
  throw_environment("model " + given + " has not been exported: there is no models/" + slug +
                    ".pt. Export it with\n    " + export_command(given));
}

}  // namespace kvtool::cli
