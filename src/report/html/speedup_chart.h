// Lines over numbers on two logarithmic axes, as an SVG element that needs no script.
#pragma once

#include <string>
#include <vector>

namespace kvtool::report::html {

struct ChartLine {
  std::string name;
  std::string color;  // of CSS
  bool dashed = false;
  std::vector<double> values;  // one for each x; what is not above 0 and finite is left out
};

// x: above 0, ascending. The picture says all of its numbers to who cannot see it: `title`.
[[nodiscard]] std::string logarithmic_chart(const std::vector<double>& x,
                                            const std::vector<ChartLine>& lines,
                                            const std::string& title, const std::string& x_title);

}  // namespace kvtool::report::html
