// What experiments found, as one picture that stands by itself.
#include <fmt/format.h>

#include <utility>

#include "html/escape.h"
#include "html/experiment_charts.h"
#include "report/reporter.h"

namespace kvtool::report {
namespace {

constexpr double kTitleHeight = 30;
constexpr std::size_t kAcross = 2;

std::string picture_of(const run::ExperimentResult& result) {
  const std::vector<html::ExperimentChart> charts =
      html::experiment_charts(result, html::picture_palette());
  const double cell = html::kExperimentChartHeight + kTitleHeight;
  const std::size_t rows = (charts.size() + kAcross - 1) / kAcross;
  const double width = html::kExperimentChartWidth * kAcross;
  const double height = kTitleHeight + cell * static_cast<double>(rows);
  std::string picture = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" "
      "height=\"{1}\" font-family=\"sans-serif\">\n<title>K/V caches compared</title>\n"
      "<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
      "<text x=\"20\" y=\"22\" font-size=\"16\" fill=\"#1f2933\">K/V caches on {2}, {3}</text>\n",
      width, height, html::text(result.device), html::text(result.created_utc));
  for (std::size_t i = 0; i < charts.size(); ++i) {
    picture += fmt::format(
        "<g transform=\"translate({}, {})\">\n<text x=\"20\" y=\"18\" font-size=\"14\" "
        "fill=\"#1f2933\">{}</text>\n<g transform=\"translate(0, {})\">\n{}</g></g>\n",
        html::kExperimentChartWidth * static_cast<double>(i % kAcross),
        kTitleHeight + cell * static_cast<double>(i / kAcross), html::text(charts[i].title),
        kTitleHeight, charts[i].body);
  }
  return picture + "</svg>\n";
}

class PictureReporter : public Reporter {
 public:
  explicit PictureReporter(std::function<void(const std::string&)> write)
      : write_(std::move(write)) {}

  void begin(const RunDescription& /*run*/) override {}
  void device(const run::DeviceDescription& /*device*/) override {}
  void model(const run::ModelDescription& /*model*/) override {}
  void input(const run::InputResult& /*input*/) override {}
  void experiments(const run::ExperimentResult& result) override { write_(picture_of(result)); }
  void finish(const run::Summary& /*summary*/) override {}
  void fail(int /*exit_status*/, const std::string& /*message*/) override {}

 private:
  std::function<void(const std::string&)> write_;
};

}  // namespace

std::unique_ptr<Reporter> make_picture_reporter(
    std::function<void(const std::string& document)> write) {
  return std::make_unique<PictureReporter>(std::move(write));
}

}  // namespace kvtool::report
