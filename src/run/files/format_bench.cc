#include "kvtool/run/format_bench.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <random>
#include <span>
#include <utility>

#include "kvtool/analysis/statistics.h"
#include "kvtool/base/error.h"
#include "kvtool/format/reader.h"
#include "rebuilt_cache.h"
#include "run/seconds_since.h"

namespace kvtool::run {
namespace {

using format::Recording;

constexpr std::uint64_t kRandomReads = 1000;

// Set up before the clock runs: what a caller would keep from step to step.
struct Bench {
  explicit Bench(const std::filesystem::path& file)
      : path(file), recording(Recording::open(file)), delta(recording.geometry().delta_bytes()) {}

  std::filesystem::path path;
  Recording recording;
  std::vector<std::byte> delta;
  std::optional<RebuiltCache> cache;  // allocated by the first that needs it
  std::minstd_rand random;
};

using Values = std::vector<double>;

Values measure_open(Bench& bench) {
  const auto start = Clock::now();
  const Recording opened = Recording::open(bench.path);
  return {seconds_since(start) * 1e3};
}

Values measure_steps(Bench& bench) {
  const std::uint64_t steps = bench.recording.num_steps();
  const auto start = Clock::now();
  for (std::uint64_t step = 0; step < steps; ++step) {
    static_cast<void>(bench.recording.read_step(step, bench.delta));
  }
  return {static_cast<double>(steps * bench.delta.size()) / seconds_since(start) / 1e9};
}

Values measure_random_reads(Bench& bench) {
  std::uniform_int_distribution<std::uint64_t> any(0, bench.recording.num_steps() - 1);
  Values times(kRandomReads);
  for (double& time : times) {
    const std::uint64_t step = any(bench.random);
    const auto start = Clock::now();
    static_cast<void>(bench.recording.read_step(step, bench.delta));
    time = seconds_since(start) * 1e6;
  }
  return {*analysis::quantile(times, 0.5), *analysis::quantile(times, 0.99)};
}

Values measure_rebuild(Bench& bench) {
  const Recording& recording = bench.recording;
  if (!bench.cache) {
    bench.cache.emplace(recording.geometry(), recording.num_cached_positions());
  }
  bench.cache->load_prompt(recording);
  const auto start = Clock::now();
  for (std::uint64_t step = 0; step < recording.num_steps(); ++step) {
    static_cast<void>(recording.read_step(step, bench.delta));
    bench.cache->append(bench.delta);
  }
  const double seconds = seconds_since(start);
  bench.cache->check_against(recording);
  return {seconds * 1e6 / static_cast<double>(recording.num_steps())};
}

Values measure_verify(Bench& bench) {
  const auto start = Clock::now();
  bench.recording.verify();
  return {static_cast<double>(bench.recording.file_bytes()) / seconds_since(start) / 1e9};
}

// Some measurements yield more than one figure: of the same reads.
struct Figure {
  const char* name;
  const char* unit;
};
struct Measurement {
  const char* name;
  std::vector<Figure> figures;
  bool needs_deltas;
  Values (*measure)(Bench& bench);
};

// A new measurement is a function and a line here.
const std::vector<Measurement>& measurements() {
  static const std::vector<Measurement> all = {
      {"open", {{"open", "ms"}}, false, measure_open},
      {"steps", {{"read steps in order", "GB/s"}}, true, measure_steps},
      {"random",
       {{"read any step, median", "us"}, {"read any step, p99", "us"}},
       true,
       measure_random_reads},
      {"rebuild", {{"rebuild the cache, per step", "us"}}, true, measure_rebuild},
      {"verify", {{"verify", "GB/s"}}, false, measure_verify},
  };
  return all;
}

bool is_chosen(const Measurement& measurement, const FormatBenchOptions& options) {
  return options.only.empty() || std::find(options.only.begin(), options.only.end(),
                                           measurement.name) != options.only.end();
}

// Empty when it can be measured.
std::string obstacle(const Measurement& measurement, const Recording& recording) {
  if (!measurement.needs_deltas) return {};
  if (recording.num_steps() == 0) return "the recording holds no step";
  if (recording.header().save_mode != format::SaveMode::kDelta) {
    return "a recording of mode " +
           std::string(format::save_mode_name(recording.header().save_mode)) +
           " holds no K/V of single steps";
  }
  return {};
}

void run_round(Bench& bench, const FormatBenchOptions& options, const StopToken& stop, bool counted,
               std::vector<BenchFigure>& figures) {
  std::size_t next = 0;
  for (const Measurement& measurement : measurements()) {
    if (!is_chosen(measurement, options) || !obstacle(measurement, bench.recording).empty()) {
      continue;
    }
    stop.throw_if_requested();
    for (const double value : measurement.measure(bench)) {
      if (counted) figures[next].values.push_back(value);
      ++next;
    }
  }
}

}  // namespace

std::vector<std::string> format_measurement_names() {
  std::vector<std::string> names;
  for (const Measurement& measurement : measurements()) names.emplace_back(measurement.name);
  return names;
}

RecordingBench bench_recording(const std::filesystem::path& path, const FormatBenchOptions& options,
                               const StopToken& stop) {
  Bench bench(path);
  const Recording& recording = bench.recording;
  RecordingBench result;
  result.path = path.string();
  result.bytes = recording.file_bytes();
  result.save_mode = format::save_mode_name(recording.header().save_mode);
  result.steps = recording.num_steps();
  result.kv_bytes = recording.num_cached_positions() * recording.geometry().position_bytes();
  for (const Measurement& measurement : measurements()) {
    if (!is_chosen(measurement, options)) continue;
    if (std::string reason = obstacle(measurement, recording); !reason.empty()) {
      result.left_out.push_back({measurement.name, std::move(reason)});
      continue;
    }
    for (const Figure& figure : measurement.figures) {
      result.figures.push_back({measurement.name, figure.name, figure.unit, {}});
    }
  }
  run_round(bench, options, stop, false, result.figures);
  for (std::uint64_t repeat = 0; repeat < options.repeats; ++repeat) {
    run_round(bench, options, stop, true, result.figures);
  }
  return result;
}

}  // namespace kvtool::run
