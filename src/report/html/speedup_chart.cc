#include "html/speedup_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "html/escape.h"

namespace kvtool::report::html {
namespace {

constexpr double kWidth = 760;
constexpr double kHeight = 330;
constexpr double kLeft = 56;
constexpr double kRight = 200;  // where the names of the lines stand
constexpr double kTop = 12;
constexpr double kBottom = 44;
constexpr double kNameHeight = 15;
constexpr double kTickWidth = 34;  // numbers below the axis are left out where they would meet

bool is_shown(double value) { return std::isfinite(value) && value > 0.0; }

class Axis {
 public:
  Axis(double least, double most, double from, double to, Across kind = Across::kLogarithmic)
      : kind_(kind),
        least_(scaled(least)),
        span_(std::max(scaled(most) - scaled(least), 1e-9)),
        from_(from),
        to_(to) {}

  [[nodiscard]] double at(double value) const {
    return from_ + (scaled(value) - least_) / span_ * (to_ - from_);
  }

 private:
  [[nodiscard]] double scaled(double value) const {
    return kind_ == Across::kLinear ? value : std::log10(value);
  }

  Across kind_;
  double least_;
  double span_;
  double from_;
  double to_;
};

std::string tick(double x, double y, const char* anchor, const std::string& words) {
  return fmt::format(
      "<text class=\"tick\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>\n", x, y, anchor,
      text(words));
}

std::string points(const std::vector<double>& x, const ChartLine& line, const Axis& across,
                   const Axis& up) {
  std::string path;
  std::string marks;
  for (std::size_t i = 0; i < std::min(x.size(), line.values.size()); ++i) {
    if (!is_shown(line.values[i])) continue;
    const double px = across.at(x[i]);
    const double py = up.at(line.values[i]);
    path += fmt::format("{}{:.1f},{:.1f}", path.empty() ? "M" : " L", px, py);
    marks += fmt::format(
        "<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3.5\" fill=\"{}\"><title>{}</title></circle>\n",
        px, py, line.color, text(fmt::format("{}, {}: {:.4g}", line.name, x[i], line.values[i])));
  }
  return fmt::format("<path d=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"{}/>\n", path,
                     line.color, line.dashed ? " stroke-dasharray=\"6 4\"" : "") +
         marks;
}

// Names beside the ends of their lines, none over another.
std::string names(const std::vector<ChartLine>& lines, const Axis& up) {
  struct Name {
    double y;
    const ChartLine* line;
  };
  std::vector<Name> placed;
  for (const ChartLine& line : lines) {
    const auto last = std::find_if(line.values.rbegin(), line.values.rend(), is_shown);
    if (last != line.values.rend()) placed.push_back({up.at(*last), &line});
  }
  std::sort(placed.begin(), placed.end(), [](const Name& a, const Name& b) { return a.y < b.y; });
  std::string written;
  double free_from = kTop;
  for (const Name& name : placed) {
    const double y = std::max(name.y, free_from);
    free_from = y + kNameHeight;
    written +=
        fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" font-size=\"12\" fill=\"{}\">{}</text>\n",
                    kWidth - kRight + 10, y + 4, name.line->color, text(name.line->name));
  }
  return written;
}

}  // namespace

std::string logarithmic_chart(const std::vector<double>& x, const std::vector<ChartLine>& lines,
                              const std::string& title, const std::string& x_title,
                              Across across_kind) {
  double most = 0.0;
  double least = std::numeric_limits<double>::infinity();
  for (const ChartLine& line : lines) {
    for (const double value : line.values) {
      if (!is_shown(value)) continue;
      most = std::max(most, value);
      least = std::min(least, value);
    }
  }
  const auto [first, last] = std::minmax_element(x.begin(), x.end());
  if (first == x.end() || !is_shown(most)) return {};
  least = std::pow(10.0, std::floor(std::log10(least)));
  most = std::max(10.0 * least, std::pow(10.0, std::ceil(std::log10(most))));
  const double right = *last > *first ? *last : *first * 2.0 + 1.0;
  const Axis across(*first, right, kLeft, kWidth - kRight, across_kind);
  const Axis up(least, most, kHeight - kBottom, kTop);
  std::string picture = fmt::format(
      "<svg viewBox=\"0 0 {} {}\" width=\"{}\" height=\"{}\" role=\"img\" "
      "aria-label=\"{}\" style=\"max-width:100%;height:auto\">\n",
      kWidth, kHeight, kWidth, kHeight, text(title));
  for (double power = least; power <= most * 1.001; power *= 10.0) {
    const double y = up.at(power);
    picture +=
        fmt::format("<line class=\"grid\" x1=\"{}\" x2=\"{:.1f}\" y1=\"{:.1f}\" y2=\"{:.1f}\"/>\n",
                    kLeft, kWidth - kRight, y, y);
    picture += tick(kLeft - 6, y + 4, "end", fmt::format("{:g}", power));
  }
  double free_from = 0.0;
  for (const double value : x) {
    if (across.at(value) < free_from) continue;
    free_from = across.at(value) + kTickWidth;
    picture +=
        tick(across.at(value), kHeight - kBottom + 18, "middle", fmt::format("{:.3g}", value));
  }
  picture += tick((kLeft + kWidth - kRight) / 2, kHeight - 6, "middle", x_title);
  for (const ChartLine& line : lines) picture += points(x, line, across, up);
  return picture + names(lines, up) + "</svg>\n";
}

}  // namespace kvtool::report::html
