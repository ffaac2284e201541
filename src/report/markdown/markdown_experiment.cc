// What experiments found, in Markdown.
#include <fmt/format.h>

#include "experiment_words.h"
#include "kvtool/base/text.h"
#include "markdown/markdown_page.h"
#include "wording.h"

namespace kvtool::report {
namespace {

std::string experiment_table(const run::ExperimentResult& result) {
  std::vector<std::string> titles = {"mode", ">context"};
  for (const ExperimentColumn& column : experiment_columns()) {
    titles.push_back(">" + std::string(column.title));
  }
  MarkdownTable table(titles);
  for (const run::Experiment& experiment : result.experiments) {
    std::vector<std::string> cells = {markdown_code(experiment_label(result, experiment)),
                                      std::to_string(experiment.context)};
    for (const ExperimentColumn& column : experiment_columns()) {
      cells.push_back(experiment_cell(column, experiment));
    }
    table.row(cells);
  }
  return table.text();
}

std::string experiment_list(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) {
    text += "- " + escape_markdown(printable(line, Newlines::kEscape)) + "\n";
  }
  return text.empty() ? text : text + "\n";
}

}  // namespace

void add_markdown_experiments(MarkdownPage& page, const run::ExperimentResult& result) {
  std::vector<std::string> specs;
  for (const run::Experiment& experiment : result.experiments) {
    specs.push_back(fmt::format("{} at {}: {}", experiment_label(result, experiment),
                                experiment.asked_context, experiment_line(experiment)));
  }
  page.add("## Experiments\n\n" + experiment_list(experiment_setting_lines(result)) +
           experiment_table(result));
  page.add("### What it costs\n\n" + experiment_list(experiment_claims(result)));
  page.add("### What ran\n\n" + experiment_list(specs));
}

}  // namespace kvtool::report
