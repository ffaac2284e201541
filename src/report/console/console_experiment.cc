// What experiments found, on the console.
#include "console/console_page.h"
#include "experiment_words.h"
#include "wording.h"

namespace kvtool::report {
namespace {

constexpr std::size_t kLabelWidth = 15;
constexpr std::size_t kContextWidth = 7;

void show_columns(ConsolePage& page, const run::ExperimentResult& result, ExperimentGroup group) {
  std::string head =
      fmt::format("{:>3}{:<{}}{:>{}}", "", "mode", kLabelWidth, "context", kContextWidth);
  for (const ExperimentColumn& column : experiment_columns()) {
    if (column.group == group) head += fmt::format("{:>{}}", column.title, column.width);
  }
  page.line("");
  page.line("{}", head);
  for (std::size_t i = 0; i < result.experiments.size(); ++i) {
    const run::Experiment& experiment = result.experiments[i];
    const std::string label =
        shortened(one_line(experiment_label(result, experiment)), kLabelWidth - 1);
    std::string line = fmt::format(
        "{:>2} {:<{}}{:>{}}", i + 1, label, kLabelWidth,
        fmt::format("{}{}", experiment.context, experiment.shortened() ? "!" : ""), kContextWidth);
    for (const ExperimentColumn& column : experiment_columns()) {
      if (column.group == group) {
        line += fmt::format("{:>{}}", experiment_cell(column, experiment), column.width);
      }
    }
    page.line("{}", line);
  }
}

// Neighbours of which the same is said have one line.
void show_what_ran(ConsolePage& page, const run::ExperimentResult& result) {
  for (std::size_t i = 0; i < result.experiments.size();) {
    const std::string line = experiment_line(result.experiments[i]);
    std::size_t end = i + 1;
    while (end < result.experiments.size() && experiment_line(result.experiments[end]) == line) {
      ++end;
    }
    const std::string numbers =
        end == i + 1 ? std::to_string(end) : fmt::format("{}-{}", i + 1, end);
    page.wrapped_line(fmt::format("{:>2} {}", numbers, one_line(line)), 5);
    i = end;
  }
}

}  // namespace

void show_experiments(ConsolePage& page, const run::ExperimentResult& result) {
  if (!page.options().quiet) {
    page.line("");
    page.line("{}", page.painted(Paint::kBold, "Experiments"));
    for (const std::string& line : experiment_setting_lines(result)) {
      page.wrapped_line(one_line(line), 2);
    }
  }
  for (const ExperimentGroup group :
       {ExperimentGroup::kTime, ExperimentGroup::kMemory, ExperimentGroup::kQuality}) {
    show_columns(page, result, group);
  }
  page.line("");
  show_what_ran(page, result);
  page.line("");
  for (const std::string& line : experiment_claims(result)) page.wrapped_line(one_line(line), 2);
  page.line("Results: {}", one_line(result.folder.string()));
}

}  // namespace kvtool::report
