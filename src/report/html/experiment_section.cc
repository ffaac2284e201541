// What experiments found, with pictures.
#include <fmt/format.h>

#include "experiment_words.h"
#include "html/escape.h"
#include "html/experiment_charts.h"
#include "html/sections.h"

namespace kvtool::report::html {
namespace {

std::string experiment_html_table(const run::ExperimentResult& result) {
  std::string head = "<th>Mode</th><th class=\"number\">Context</th>";
  for (const ExperimentColumn& column : experiment_columns()) {
    head += "<th class=\"number\">" + text(std::string(column.title)) + "</th>";
  }
  std::string rows;
  for (const run::Experiment& experiment : result.experiments) {
    rows += fmt::format("<tr><th scope=\"row\"><code>{}</code></th><td class=\"number\">{}</td>",
                        text(experiment_label(result, experiment)), experiment.context);
    for (const ExperimentColumn& column : experiment_columns()) {
      rows += "<td class=\"number\">" + text(experiment_cell(column, experiment)) + "</td>";
    }
    rows += "</tr>\n";
  }
  return "<div class=\"scroll\"><table><thead><tr>" + head + "</tr></thead><tbody>\n" + rows +
         "</tbody></table></div>\n";
}

std::string experiment_items(const std::vector<std::string>& lines) {
  std::string items = "<ul class=\"notes\">\n";
  for (const std::string& line : lines) items += "<li>" + text(line) + "</li>\n";
  return items + "</ul>\n";
}

std::string experiment_figures(const run::ExperimentResult& result) {
  std::string figures;
  for (const ExperimentChart& chart : experiment_charts(result, page_palette())) {
    figures += fmt::format(
        "<h3>{0}</h3>\n<figure class=\"chart\"><svg viewBox=\"0 0 {1} {2}\" width=\"{1}\" "
        "height=\"{2}\" role=\"img\" aria-label=\"{0}\" style=\"max-width:100%;height:auto\">\n{3}"
        "</svg></figure>\n",
        text(chart.title), kExperimentChartWidth, kExperimentChartHeight, chart.body);
  }
  return figures;
}

}  // namespace

std::string experiment_section(const run::ExperimentResult& result) {
  std::vector<std::string> specs;
  for (const run::Experiment& experiment : result.experiments) {
    specs.push_back(fmt::format("{} at {}: {}", experiment_label(result, experiment),
                                experiment.asked_context, experiment_line(experiment)));
  }
  const bool whole = result.successful() == result.experiments.size();
  std::string section = fmt::format(
      "<section class=\"card\">\n<header class=\"verdict\"><div class=\"badge-line\">{}<div>"
      "<h2>Experiments</h2><p class=\"pair\">{}</p></div></div>",
      badge(whole ? Outcome::kDone : Outcome::kFail), text(result.device));
  for (const std::string& line : experiment_claims(result)) {
    section += "<p class=\"finding\">" + text(line) + "</p>";
  }
  return section + "</header>\n" + experiment_html_table(result) + experiment_figures(result) +
         "<h3>What ran</h3>\n" + experiment_items(specs) +
         experiment_items(experiment_setting_lines(result)) + "</section>\n";
}

}  // namespace kvtool::report::html
