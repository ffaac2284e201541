// Lines over numbers on a logarithmic axis, as an SVG element that needs no script.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace kvtool::report::html {

enum class Across : std::uint8_t { kLogarithmic, kLinear };

struct ChartLine {
  std::string name;
  std::string color;  // of CSS
  bool dashed = false;
  std::vector<double> values;  // one for each x; what is not above 0 and finite is left out
};

// x: ascending, and above 0 on a logarithmic axis. The picture says all of its numbers to who
// cannot see it: `title`.
[[nodiscard]] std::string logarithmic_chart(const std::vector<double>& x,
                                            const std::vector<ChartLine>& lines,
                                            const std::string& title, const std::string& x_title,
                                            Across across = Across::kLogarithmic);

}  // namespace kvtool::report::html
