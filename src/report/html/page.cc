#include "html/page.h"

#include "html/assets.h"
#include "kvtool/base/error.h"

namespace kvtool::report::html {

std::string fill(std::string_view page,
                 const std::map<std::string, std::string, std::less<>>& parts) {
  constexpr std::string_view kBegin = "<!--kvtool:";
  constexpr std::string_view kEnd = "-->";
  std::string result;
  while (true) {
    const std::size_t begin = page.find(kBegin);
    result += page.substr(0, begin);
    if (begin == std::string_view::npos) return result;
    page.remove_prefix(begin + kBegin.size());
    const std::size_t end = page.find(kEnd);
    const std::string_view name = page.substr(0, end);
    const auto part = parts.find(name);
    if (part == parts.end()) {
      throw_internal("report.html: no part for mark " + std::string(name));
    }
    result += part->second;
    page.remove_prefix(end + kEnd.size());
  }
}

std::string scripts() {
  std::string joined;
  for (const std::string_view script :
       {numbers_js, details_js, strip_js, lines_js, heatmap_js, inputs_js, report_js}) {
    joined += script;
  }
  return joined;
}

}  // namespace kvtool::report::html
