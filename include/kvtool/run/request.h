// What to run: models, prompts, device, what is recorded and what is replayed. Everything
// has a default; the command line and a configuration fill it, and so may a program.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "kvtool/analysis/gate.h"
#include "kvtool/cache/cache_spec.h"
#include "kvtool/format/recording.h"
#include "kvtool/format/replay_mode.h"
#include "kvtool/run/prompts.h"
#include "kvtool/run/replay_shape.h"

namespace kvtool::run {

struct Request {
  // Beside the current folder, models/ and model files are looked for here.
  std::filesystem::path config_folder;

  std::vector<std::string> models;  // files, or ids of exported models
  std::vector<Prompt> prompts;
  // A replay uses the recorded prompts: others in `prompts` are an error, not a warning.
  bool prompts_must_match = false;
  std::optional<std::uint64_t> request_number;  // inputs; prompts repeat. Empty: each once
  std::vector<std::uint64_t> batch_sizes;       // empty: 1
  std::uint64_t max_new_tokens = 128;
  bool ignore_eos = false;

  std::string device = "auto";  // engine::EngineOptions
  std::string device_label;     // empty: the engine's
  std::string cpu_isa = "auto";
  int threads = 0;

  // Of this device. Empty: contiguous, or in a replay the one that made the recordings.
  std::optional<cache::CacheSpec> kv_cache;

  bool save = false;
  std::optional<format::SaveMode> save_mode;  // empty: delta, or the reference's
  std::string base_dir = "outputs/{timestamp}/kv_caches";
  std::uint32_t top_k = 32;
  std::uint32_t logits_sample = 64;  // of a save; a replay records what its reference holds
  bool force = false;
  bool resume = false;  // not together with force or a replay
  bool sync = false;    // format::WriterOptions
  std::uint64_t sync_every_steps = 0;

  std::string from;  // the recordings to replay; see find_reference()
  std::string ref_dir = "ref_cache";
  std::optional<std::uint64_t> from_batch_size;
  ReplayShape replay_shape = ReplayShape::kRecorded;
  std::optional<std::uint64_t> parallel_memory_bytes;  // with ReplayShape::kParallel
  std::vector<format::ReplayMode> replay_modes;        // empty: those that the gate needs
  std::optional<analysis::GateSpec> gate;              // nothing: the default gate
  bool allow_different_weights = false;
};

}  // namespace kvtool::run
