// What the command line said, before the configuration file is consulted.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace kvtool::cli {

struct RunOptions {
  std::optional<std::string> config;
  std::vector<std::string> models;
  std::vector<std::string> prompts;
  std::optional<std::string> prompts_file;
  std::vector<std::uint64_t> batch_sizes;
  std::optional<std::uint64_t> request_number;
  std::optional<std::uint64_t> max_new_tokens;
  bool ignore_eos = false;
  std::optional<std::string> device;
  std::optional<std::string> device_label;
  std::string cpu_isa = "auto";
  int threads = 0;
  std::optional<std::string> json;
  bool quiet = false;
  bool verbose = false;

  // What is recorded.
  std::optional<std::string> save_mode;
  std::optional<std::string> out;
  std::uint32_t top_k = 32;
  bool force = false;

  // What is replayed.
  std::optional<std::string> from;
  std::optional<std::string> ref_dir;
  std::optional<std::uint64_t> from_batch_size;
  std::string batch = "recorded";
  bool save = false;
};

// Declare options on a subcommand; `options` must outlive the parsing.
void add_common_options(CLI::App& app, RunOptions& options);
void add_save_options(CLI::App& app, RunOptions& options);
void add_replay_options(CLI::App& app, RunOptions& options);

}  // namespace kvtool::cli
