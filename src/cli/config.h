// hyperparameter.json: what to run, in JSON with comments. Every key is
// optional; options on the command line win over it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kvtool/analysis/gate.h"
#include "kvtool/cache/cache_spec.h"
#include "kvtool/format/recording.h"
#include "kvtool/format/replay_mode.h"
#include "kvtool/run/prompts.h"

namespace kvtool::cli {

inline constexpr const char* kDefaultConfigFile = "hyperparameter.json";

struct KvCacheConfig {
  std::optional<cache::CacheSpec> policy;
  std::optional<bool> save;
  std::optional<format::SaveMode> save_mode;
  std::optional<bool> load;
  std::optional<std::string> load_from_device;
  std::optional<std::uint64_t> load_from_batch_size;
  std::optional<std::string> load_base_dir;
  std::vector<format::ReplayMode> replay_modes;
  std::optional<std::string> base_dir;  // may hold {timestamp}
  std::optional<bool> resume;
  std::optional<bool> fsync;
  std::optional<std::uint64_t> fsync_every;
};

struct Config {
  std::filesystem::path path;  // empty: no file
  std::vector<std::string> models;
  std::vector<std::uint64_t> batch_sizes;
  std::optional<std::uint64_t> request_number;
  std::optional<std::uint64_t> max_new_tokens;
  std::optional<bool> force_cpu;  // "cpu": "Enable"
  std::vector<run::Prompt> prompts;
  KvCacheConfig kv_cache;
  std::optional<analysis::GateSpec> gate;  // "gate": a name, a gate file or a gate object
};

// Error kUsage: syntax with line and column, unknown keys with the nearest
// known one, wrong types and values with the key's path. A "prompts" file
// and a gate file are read relative to `path`'s folder.
[[nodiscard]] Config parse_config(std::string_view text, const std::filesystem::path& path);
[[nodiscard]] Config load_config(const std::filesystem::path& path);

}  // namespace kvtool::cli
