#include "html/experiment_charts.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <optional>
#include <set>

#include "experiment_words.h"
#include "html/escape.h"

namespace kvtool::report::html {
namespace {

using run::Experiment;
using run::ExperimentRun;
using run::Spread;

constexpr double kChartLeft = 64;
constexpr double kChartRight = 150;  // where the names of the lines stand
constexpr double kChartTop = 14;
constexpr double kChartBottom = 44;
constexpr double kLabelStep = 15;
constexpr double kMegabytes = 1e6;
// Zero, or less than can be told from it, on an axis of powers of ten.
constexpr double kSmallestKl = 1e-6;

double plot_right() { return kExperimentChartWidth - kChartRight; }
double plot_bottom() { return kExperimentChartHeight - kChartBottom; }

// From a number to a place.
using Scale = std::function<double(double)>;

Scale linear(double least, double most, double from, double to) {
  const double span = most > least ? most - least : 1.0;
  return [=](double value) { return from + (value - least) / span * (to - from); };
}

// 1, 2 or 5 times a power of ten, so that a handful of them reach `most`.
double tick_step(double most) {
  const double rough = most / 5.0;
  const double power = std::pow(10.0, std::floor(std::log10(rough)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= rough) return factor * power;
  }
  return 10.0 * power;
}

class Drawing {
 public:
  explicit Drawing(const ChartPalette& palette) : palette_(palette) {}

  void words(double x, double y, const char* anchor, const std::string& what,
             const std::string& color = {}) {
    body_ += fmt::format(
        "<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\" font-size=\"12\" "
        "fill=\"{}\">{}</text>\n",
        x, y, anchor, color.empty() ? palette_.words : color, text(what));
  }
  void rule(double x1, double y1, double x2, double y2) {
    body_ += fmt::format(
        "<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"{}\"/>\n", x1, y1,
        x2, y2, palette_.grid);
  }
  void path(const std::string& places, const std::string& color, bool dashed) {
    body_ += fmt::format("<path d=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"{}/>\n",
                         places, color, dashed ? " stroke-dasharray=\"6 4\"" : "");
  }
  void bar(double x, double y1, double y2, const std::string& color) {
    body_ += fmt::format(
        "<path d=\"M{:.1f},{:.1f} V{:.1f}\" stroke=\"{}\" stroke-width=\"1.5\" opacity=\"0.6\"/>\n",
        x, y1, y2, color);
  }
  void dot(double x, double y, const std::string& color, const std::string& what) {
    body_ += fmt::format(
        "<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"4\" fill=\"{}\"><title>{}</title></circle>\n", x,
        y, color, text(what));
  }
  void frame_title(const std::string& x_title) {
    words((kChartLeft + plot_right()) / 2, kExperimentChartHeight - 6, "middle", x_title);
  }
  [[nodiscard]] std::string body() const { return body_; }

 private:
  const ChartPalette& palette_;
  std::string body_;
};

// ---- Over contexts -------------------------------------------------------------------

struct ContextLine {
  std::string name;
  std::string color;
  bool dashed = false;
  std::map<std::uint64_t, Spread> values;  // by context
};

struct Series {
  std::string label;
  std::vector<const Experiment*> experiments;
};

std::vector<Series> series_of(const run::ExperimentResult& result) {
  std::vector<Series> all;
  for (const Experiment& experiment : result.experiments) {
    if (experiment.runs.empty()) continue;
    const std::string label = experiment_label(result, experiment);
    auto found = std::ranges::find(all, label, &Series::label);
    if (found == all.end()) found = all.insert(all.end(), {label, {}});
    found->experiments.push_back(&experiment);
  }
  return all;
}

using RunValue = std::function<std::optional<double>(const ExperimentRun&)>;

std::vector<ContextLine> lines_of(const std::vector<Series>& all, const ChartPalette& palette,
                                  const RunValue& value, bool dashed, const std::string& suffix) {
  std::vector<ContextLine> lines;
  for (std::size_t i = 0; i < all.size(); ++i) {
    ContextLine line{all[i].label + suffix, palette.lines[i % palette.lines.size()], dashed, {}};
    for (const Experiment* experiment : all[i].experiments) {
      std::vector<double> values;
      for (const ExperimentRun& run : experiment->runs) {
        if (const auto each = value(run)) values.push_back(*each);
      }
      if (const auto spread = run::spread_of(values)) line.values[experiment->context] = *spread;
    }
    if (!line.values.empty()) lines.push_back(std::move(line));
  }
  return lines;
}

double most_of(const std::vector<ContextLine>& lines) {
  double most = 0.0;
  for (const ContextLine& line : lines) {
    for (const auto& [context, spread] : line.values) most = std::max(most, spread.most);
  }
  return most;
}

// Beside the last point of each line, none over another.
void name_lines(Drawing& drawing, const std::vector<ContextLine>& lines, const Scale& up) {
  std::vector<std::pair<double, const ContextLine*>> placed;
  for (const ContextLine& line : lines) {
    placed.emplace_back(up(line.values.rbegin()->second.median), &line);
  }
  std::ranges::sort(placed, {}, &std::pair<double, const ContextLine*>::first);
  double free_from = kChartTop;
  for (const auto& [at, line] : placed) {
    const double y = std::max(at, free_from);
    free_from = y + kLabelStep;
    drawing.words(plot_right() + 12, y + 4, "start", line->name, line->color);
  }
}

std::string context_chart(const std::vector<ContextLine>& lines, const ChartPalette& palette,
                          double least_top) {
  std::set<std::uint64_t> contexts;
  for (const ContextLine& line : lines) {
    for (const auto& [context, spread] : line.values) contexts.insert(context);
  }
  const double most = std::max(most_of(lines), least_top);
  if (contexts.empty() || !(most > 0.0)) return {};
  const double step = tick_step(most);
  const double top = std::ceil(most / step - 1e-9) * step;
  const Scale up = linear(0.0, top, plot_bottom(), kChartTop);
  std::map<std::uint64_t, double> places;
  // Evenly, since they usually double; a single one in the middle.
  const Scale across = contexts.size() == 1
                           ? Scale([](double) { return (kChartLeft + plot_right()) / 2; })
                           : linear(0.0, static_cast<double>(contexts.size() - 1), kChartLeft + 20,
                                    plot_right() - 20);
  Drawing drawing(palette);
  for (double value = 0.0; value <= top * 1.0001; value += step) {
    drawing.rule(kChartLeft, up(value), plot_right(), up(value));
    drawing.words(kChartLeft - 6, up(value) + 4, "end", fmt::format("{:.4g}", value));
  }
  for (const std::uint64_t context : contexts) {
    const double x = across(static_cast<double>(places.size()));
    places[context] = x;
    drawing.words(x, plot_bottom() + 18, "middle", std::to_string(context));
  }
  drawing.frame_title("tokens of context");
  for (const ContextLine& line : lines) {
    std::string path;
    for (const auto& [context, spread] : line.values) {
      path += fmt::format("{}{:.1f},{:.1f}", path.empty() ? "M" : " L", places[context],
                          up(spread.median));
    }
    drawing.path(path, line.color, line.dashed);
    for (const auto& [context, spread] : line.values) {
      drawing.bar(places[context], up(spread.least), up(spread.most), line.color);
      drawing.dot(places[context], up(spread.median), line.color,
                  fmt::format("{} at {}: {:.4g} ({:.4g} to {:.4g}, {} runs)", line.name, context,
                              spread.median, spread.least, spread.most, spread.count));
    }
  }
  name_lines(drawing, lines, up);
  return drawing.body();
}

// ---- Quality against bytes -----------------------------------------------------------

struct QualityPoint {
  std::uint64_t context = 0;
  std::string name;
  std::string color;
  double megabytes = 0.0;
  double kl = 0.0;
};

std::vector<QualityPoint> quality_points(const std::vector<Series>& all,
                                         const ChartPalette& palette) {
  std::vector<QualityPoint> points;
  for (std::size_t i = 0; i < all.size(); ++i) {
    for (const Experiment* experiment : all[i].experiments) {
      if (!experiment->quality.kl_mean || !experiment->idle.empty() || !experiment->succeeded()) {
        continue;
      }
      points.push_back(
          {experiment->context, fmt::format("{} at {}", all[i].label, experiment->context),
           palette.lines[i % palette.lines.size()],
           static_cast<double>(run::device_peak_bytes(experiment->runs.front().use)) / kMegabytes,
           std::max(*experiment->quality.kl_mean, kSmallestKl)});
    }
  }
  std::ranges::sort(points, {}, &QualityPoint::megabytes);
  return points;
}

// Of one context, each better than all that take as little memory: steps from the least memory on.
std::string frontier(const std::vector<QualityPoint>& points, std::uint64_t context,
                     const Scale& across, const Scale& up) {
  std::string path;
  double best = INFINITY;
  for (const QualityPoint& point : points) {
    if (point.context != context || point.kl >= best) continue;
    best = point.kl;
    path += path.empty() ? fmt::format("M{:.1f},{:.1f}", across(point.megabytes), up(point.kl))
                         : fmt::format(" H{:.1f} V{:.1f}", across(point.megabytes), up(point.kl));
  }
  return path;
}

std::string quality_chart(const std::vector<Series>& all, const ChartPalette& palette) {
  const std::vector<QualityPoint> points = quality_points(all, palette);
  if (points.empty()) return {};
  const auto [least, most] = std::ranges::minmax(points, {}, &QualityPoint::kl);
  const double low = std::floor(std::log10(least.kl));
  const double high = std::max(std::ceil(std::log10(most.kl)), low + 1.0);
  const Scale powers = linear(low, high, plot_bottom(), kChartTop);
  const Scale up = [&](double value) { return powers(std::log10(value)); };
  const double step = tick_step(points.back().megabytes);
  const double right = std::ceil(points.back().megabytes / step - 1e-9) * step;
  const Scale across = linear(0.0, right, kChartLeft, plot_right());
  Drawing drawing(palette);
  for (double power = low; power <= high + 0.5; power += 1.0) {
    drawing.rule(kChartLeft, powers(power), plot_right(), powers(power));
    drawing.words(kChartLeft - 6, powers(power) + 4, "end",
                  std::pow(10.0, power) <= kSmallestKl * 1.5
                      ? "0"
                      : fmt::format("{:g}", std::pow(10.0, power)));
  }
  for (double value = 0.0; value <= right * 1.0001; value += step) {
    drawing.words(across(value), plot_bottom() + 18, "middle", fmt::format("{:.4g}", value));
  }
  drawing.frame_title("MB of K/V on the device at most");
  std::set<std::uint64_t> contexts;
  for (const QualityPoint& point : points) {
    if (!contexts.insert(point.context).second) continue;
    // By the first of it, which takes the least memory.
    drawing.path(frontier(points, point.context, across, up), palette.words, true);
    drawing.words(across(point.megabytes), up(point.kl) - 8, "middle",
                  std::to_string(point.context));
  }
  for (const QualityPoint& point : points) {
    drawing.dot(across(point.megabytes), up(point.kl), point.color,
                fmt::format("{}: {:.4g} MB, mean KL {:.3g}", point.name, point.megabytes,
                            point.kl <= kSmallestKl ? 0.0 : point.kl));
  }
  double y = kChartTop + 10;
  for (std::size_t i = 0; i < all.size(); ++i, y += kLabelStep) {
    drawing.words(plot_right() + 12, y, "start", all[i].label,
                  palette.lines[i % palette.lines.size()]);
  }
  drawing.words(plot_right() + 12, y, "start", "- - frontier of a context");
  return drawing.body();
}

std::optional<double> latency_of(const ExperimentRun& run) { return run.total_ms; }
std::optional<double> token_of(const ExperimentRun& run) { return run.per_token_ms(); }
std::optional<double> memory_of(const ExperimentRun& run) {
  return static_cast<double>(run::device_peak_bytes(run.use)) / kMegabytes;
}
std::optional<double> moved_of(const ExperimentRun& run) {
  return static_cast<double>(run.use.moved_bytes) / kMegabytes;
}

std::optional<double> in_percent(const std::optional<double>& share) {
  return share ? std::optional(100.0 * *share) : std::nullopt;
}
std::optional<double> hits_of(const ExperimentRun& run) {
  return in_percent(run.use.pages.hit_rate());
}
std::optional<double> foreseen_of(const ExperimentRun& run) {
  return in_percent(run.use.pages.precision());
}
std::optional<double> stalls_of(const ExperimentRun& run) { return in_percent(run.stall_share()); }

}  // namespace

ChartPalette page_palette() {
  return {"var(--quiet)",
          "var(--line)",
          {"var(--quiet)", "var(--mode-inject)", "var(--mode-forced)", "var(--noise)",
           "var(--mode-free)", "var(--near)"}};
}

ChartPalette picture_palette() {
  return {"#5a6673",
          "#d5dbe1",
          {"#5a6673", "#0072b2", "#d55e00", "#009e73", "#7b4fa0", "#e69f00", "#cc79a7"}};
}

std::vector<ExperimentChart> experiment_charts(const run::ExperimentResult& result,
                                               const ChartPalette& palette) {
  const std::vector<Series> all = series_of(result);
  std::vector<ExperimentChart> charts;
  const auto add = [&](const std::string& title, const std::string& body) {
    if (!body.empty()) charts.push_back({title, body});
  };
  const auto over_contexts = [&](const RunValue& value) {
    return context_chart(lines_of(all, palette, value, false, ""), palette, 0.0);
  };
  add("Latency of a generation, ms", over_contexts(latency_of));
  add("Milliseconds of each later token", over_contexts(token_of));
  std::vector<ContextLine> rates = lines_of(all, palette, hits_of, false, " hits");
  for (ContextLine& line : lines_of(all, palette, foreseen_of, true, " foreseen")) {
    rates.push_back(std::move(line));
  }
  add("Hits on the device, and prefetches that were used, %", context_chart(rates, palette, 100.0));
  add("Decoding time in which steps waited for pages, %", over_contexts(stalls_of));
  add("K/V on the device at most, MB", over_contexts(memory_of));
  add("K/V moved between places, MB", over_contexts(moved_of));
  add("Mean KL divergence (nats) against memory", quality_chart(all, palette));
  return charts;
}

}  // namespace kvtool::report::html
