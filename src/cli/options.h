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

// Where results go besides the text on stdout. Empty: nowhere; "-": to stdout
// in place of the text, which one of them may do.
struct ReportTargets {
  std::string json = {};
  std::string junit = {};
  std::string markdown = {};
  std::string html = {};
  std::string picture = {};  // of experiments; no option names it
};

struct RunOptions {
  std::optional<std::string> config;
  std::vector<std::string> models;
  std::vector<std::string> prompts;
  std::optional<std::string> prompts_file;
  std::optional<std::string> text_file;
  std::vector<std::uint64_t> contexts;  // of text_file
  std::vector<std::uint64_t> batch_sizes;
  std::optional<std::uint64_t> request_number;
  std::optional<std::uint64_t> max_new_tokens;
  bool ignore_eos = false;
  std::optional<std::string> device;
  std::optional<std::string> device_label;
  std::string cpu_isa = "auto";
  int threads = 0;
  std::optional<std::string> kv_cache;  // a spec that parses
  ReportTargets reports;
  bool quiet = false;
  bool verbose = false;

  // What is recorded.
  std::optional<std::string> save_mode;
  std::optional<std::string> out;
  std::optional<std::uint32_t> top_k;
  std::optional<std::uint32_t> logits_sample;
  bool force = false;
  bool resume = false;
  bool fsync = false;
  std::optional<std::uint64_t> fsync_every;

  // What is replayed.
  std::optional<std::string> from;
  std::optional<std::string> ref_dir;
  std::optional<std::uint64_t> from_batch_size;
  std::optional<std::string> batch;
  bool parallel = false;
  std::optional<std::uint64_t> parallel_memory_mib;
  std::vector<std::string> modes;
  std::optional<std::string> gate;
  bool allow_different_weights = false;
  bool save = false;
};

// Declare options on a subcommand; the structs must outlive the parsing.
// Model, prompts, batch size, device, --json, -q and -v.
void add_common_options(CLI::App& app, RunOptions& options);
// How far a generation goes. A replay computes the tokens of its reference.
void add_length_options(CLI::App& app, RunOptions& options);
void add_save_options(CLI::App& app, RunOptions& options);
// After add_save_options(): what only a save can do. A replay records as many logits as its
// reference holds.
void add_logits_options(CLI::App& app, RunOptions& options);
void add_resume_option(CLI::App& app, RunOptions& options);
// --from and --ref-dir. from: what --from names, for its help.
void add_reference_options(CLI::App& app, RunOptions& options, const std::string& from);
void add_from_batch_size_option(CLI::App& app, RunOptions& options);
void add_replay_options(CLI::App& app, RunOptions& options);
// --batch, --parallel and --parallel-memory: how the recordings of a replay are put together.
void add_shape_options(CLI::App& app, RunOptions& options);
// --gate and --allow-different-weights.
void add_gate_options(CLI::App& app, std::optional<std::string>& gate,
                      bool& allow_different_weights);
// --device, --device-label, --cpu-isa, --threads and --kv-cache.
void add_device_options(CLI::App& app, RunOptions& options);
void add_json_option(CLI::App& app, ReportTargets& targets);
// --junit, --markdown and --html.
void add_report_options(CLI::App& app, ReportTargets& targets);
// --markdown and --html.
void add_page_options(CLI::App& app, ReportTargets& targets);
// -q and -v.
void add_verbosity_options(CLI::App& app, bool& quiet, bool& verbose);

}  // namespace kvtool::cli
