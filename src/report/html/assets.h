// The files of this folder, compiled into the library (cmake/EmbedText.cmake).
#pragma once

#include <string_view>

namespace kvtool::report::html {

extern const std::string_view report_html;
extern const std::string_view report_css;
extern const std::string_view numbers_js;
extern const std::string_view details_js;
extern const std::string_view strip_js;
extern const std::string_view lines_js;
extern const std::string_view heatmap_js;
extern const std::string_view inputs_js;
extern const std::string_view report_js;

}  // namespace kvtool::report::html
