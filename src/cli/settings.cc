#include "settings.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "config.h"
#include "idle_options.h"
#include "kvtool/base/error.h"
#include "kvtool/run/load_gate.h"
#include "kvtool/run/paths.h"

namespace kvtool::cli {
namespace {

namespace fs = std::filesystem;

Config read_config(const RunOptions& options) {
  if (options.config) return load_config(*options.config);
  if (fs::exists(kDefaultConfigFile)) return load_config(kDefaultConfigFile);
  return {};
}

void take_config(const Config& config, run::Request& request) {
  request.config_folder = config.path.parent_path();
  request.models = config.models;
  request.prompts = config.prompts;
  request.batch_sizes = config.batch_sizes;
  request.request_number = config.request_number;
  request.max_new_tokens = config.max_new_tokens.value_or(request.max_new_tokens);
  if (config.force_cpu.value_or(false)) request.device = "cpu";
  const KvCacheConfig& cache = config.kv_cache;
  request.kv_cache = cache.policy;
  request.save_mode = cache.save_mode;
  request.base_dir = cache.base_dir.value_or(request.base_dir);
  request.resume = cache.resume.value_or(false);
  request.sync_every_steps = cache.fsync_every.value_or(0);
  request.sync = cache.fsync.value_or(false) || request.sync_every_steps != 0;
  request.from = cache.load_from_device.value_or("");
  request.ref_dir = cache.load_base_dir.value_or(request.ref_dir);
  request.from_batch_size = cache.load_from_batch_size;
  if (!cache.replay_modes.empty()) request.replay_modes = cache.replay_modes;
  request.gate = config.gate;
}

void check_text(const RunOptions& options) {
  if (options.text_file && options.contexts.empty()) {
    throw_usage("--text needs --context N[,N...]: of how many tokens the prompts shall be");
  }
  if (!options.text_file && !options.contexts.empty()) {
    throw_usage("--context cuts a text to so many tokens: name it with --text FILE");
  }
}

void take_prompts(const RunOptions& options, run::Request& request) {
  check_text(options);
  if (options.prompts.empty() && !options.prompts_file && !options.text_file) return;
  request.prompts.clear();
  request.prompts_must_match = true;
  for (std::size_t i = 0; i < options.prompts.size(); ++i) {
    request.prompts.push_back(
        run::text_prompt(options.prompts[i], "--prompt " + std::to_string(i + 1)));
  }
  const auto append = [&](std::vector<run::Prompt> prompts) {
    std::move(prompts.begin(), prompts.end(), std::back_inserter(request.prompts));
  };
  if (options.prompts_file) append(run::load_prompts_file(*options.prompts_file));
  if (options.text_file) append(run::cut_text_prompts(*options.text_file, options.contexts));
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

// A number in a configuration may serve another command.
void check_number(const RunOptions& options) {
  if (!options.request_number || !options.from || !fs::is_regular_file(*options.from)) return;
  throw_usage("--from " + *options.from +
              " is one recording, of which --request-number chooses nothing: leave it out, or give "
              "--from the folder");
}

void take_options(const RunOptions& options, run::Request& request) {
  check_number(options);
  if (!options.models.empty()) request.models = options.models;
  if (!options.batch_sizes.empty()) request.batch_sizes = options.batch_sizes;
  if (options.request_number) request.request_number = options.request_number;
  request.max_new_tokens = options.max_new_tokens.value_or(request.max_new_tokens);
  request.ignore_eos = options.ignore_eos;
  request.device = options.device.value_or(request.device);
  if (options.device_label) request.device_label = run::device_label(*options.device_label);
  request.cpu_isa = options.cpu_isa;
  request.threads = options.threads;
  if (options.kv_cache) request.kv_cache = cache::CacheSpec::parse(*options.kv_cache);
  if (options.save_mode) request.save_mode = format::parse_save_mode(*options.save_mode);
  request.base_dir = options.out.value_or(request.base_dir);
  request.top_k = options.top_k.value_or(request.top_k);
  request.logits_sample = options.logits_sample.value_or(request.logits_sample);
  request.force = options.force;
  request.resume = request.resume || options.resume;
  request.sync_every_steps = options.fsync_every.value_or(request.sync_every_steps);
  request.sync = request.sync || options.fsync || options.fsync_every.has_value();
  request.from = options.from.value_or(request.from);
  request.ref_dir = options.ref_dir.value_or(request.ref_dir);
  if (options.from_batch_size) request.from_batch_size = options.from_batch_size;
  if (options.batch == "1") request.replay_shape = run::ReplayShape::kSingle;
  if (options.parallel) request.replay_shape = run::ReplayShape::kParallel;
  if (options.parallel_memory_mib) {
    request.parallel_memory_bytes = *options.parallel_memory_mib << 20;
  }
  if (!options.modes.empty()) request.replay_modes = parse_modes(options.modes);
  if (options.gate) request.gate = run::load_gate(*options.gate);
  request.allow_different_weights = options.allow_different_weights;
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
void check_resume(Action action, bool replay, run::Request& request) {
  if (action == Action::kReplay) request.resume = false;
  if (!request.resume) return;
  if (replay) {
    throw_usage("only 'save' can be resumed: repeat the replay, with --force if it saves");
  }
  if (request.force) {
    throw_usage("kv_cache.resume keeps what is complete, --force replaces it: choose one of them");
  }
}

}  // namespace

run::Request request_of(const RunOptions& options) {
  run::Request request;
  take_options(options, request);
  return request;
}

Settings resolve_settings(const RunOptions& options, Action action) {
  Settings settings;
  run::Request& request = settings.request;
  const Config config = read_config(options);
  take_config(config, request);
  take_prompts(options, request);
  take_options(options, request);
  remove_repeated(request.batch_sizes);
  switch (action) {
    case Action::kGenerate: break;
    case Action::kSave: request.save = true; break;
    case Action::kReplay:
      settings.replay = true;
      request.save = options.save;
      break;
    case Action::kAsConfigured:
      request.save = config.kv_cache.save.value_or(false);
      settings.replay = config.kv_cache.load.value_or(false);
      break;
  }
  check_resume(action, settings.replay, request);
  // A configuration may name a reference for other commands.
  if (!settings.replay) request.from.clear();
  if (settings.replay && request.from.empty()) {
    throw_usage(
        "nothing to replay: name the recordings with --from (or kv_cache.load_from_device), for "
        "example\n    kvtool replay --from NVIDIA_H200");
  }
  return settings;
}

}  // namespace kvtool::cli
