// One self-contained page: what the tables say is written here, what the charts
// show travels as JSON in script elements and is drawn when someone looks.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "flip_texts.h"
#include "html/assets.h"
#include "html/escape.h"
#include "html/page.h"
#include "html/page_data.h"
#include "html/sections.h"
#include "kvtool/run/cache_bench.h"
#include "kvtool/run/experiment.h"
#include "kvtool/run/lab.h"
#include "report/reporter.h"

namespace kvtool::report {
namespace {

class HtmlReporter : public Reporter {
 public:
  explicit HtmlReporter(std::function<void(const std::string&)> write) : write_(std::move(write)) {}

  void begin(const RunDescription& run) override { run_ = run; }
  void device(const run::DeviceDescription& device) override { device_ = device; }
  void model(const run::ModelDescription& model) override { models_.push_back(model); }

  // Only the text that the page needs is kept: profiles of hundreds of inputs
  // would not fit into memory.
  void input(const run::InputResult& input) override {
    input_elements_ +=
        fmt::format("<script type=\"application/json\" id=\"input-{}\">{}</script>\n",
                    lines_.size(), html::script_json(html::input_data(input)));
    lines_.push_back(html::input_line(input));
    flip_texts_.add(input);
  }

  void selftest(const run::SelftestResult& result) override {
    sections_ += html::selftest_section(result);
    outcome_ = std::max(outcome_, result.passed() ? html::Outcome::kPass : html::Outcome::kFail,
                        more_severe);
  }

  void calibration(const run::CalibrationResult& result) override {
    sections_ += html::calibration_section(result);
  }

  void cache_bench(const run::CacheBenchResult& result) override {
    sections_ += html::cache_bench_section(result);
    outcome_ = std::max(outcome_, result.passed() ? html::Outcome::kPass : html::Outcome::kFail,
                        more_severe);
  }

  void lab(const run::LabResult& result) override { sections_ += html::lab_section(result); }
  void experiments(const run::ExperimentResult& result) override {
    sections_ += html::experiment_section(result);
  }

  void finish(const run::Summary& summary) override {
    for (const run::Verdict& verdict : summary.verdicts) {
      sections_ += html::verdict_section(verdict, flip_texts_);
      outcome_ = std::max(
          outcome_, verdict.gate.passed ? html::Outcome::kPass : html::Outcome::kFail, more_severe);
    }
    if (!summary.missing.empty()) {
      sections_ = html::missing_section(summary.missing) + sections_;
      outcome_ = std::max(outcome_, html::Outcome::kFail, more_severe);
    }
    write_page(summary);
  }

  void fail(int exit_status, const std::string& message) override {
    outcome_ = html::Outcome::kError;
    sections_ = html::error_section(exit_status, message) + sections_;
    write_page({});
  }

 private:
  static bool more_severe(html::Outcome a, html::Outcome b) { return rank(a) < rank(b); }
  static int rank(html::Outcome outcome) {
    switch (outcome) {
      case html::Outcome::kDone: return 0;
      case html::Outcome::kPass: return 1;
      case html::Outcome::kFail: return 2;
      case html::Outcome::kError: return 3;
    }
    return 3;
  }

  [[nodiscard]] std::string title() const {
    constexpr std::array kWords = {"PASS", "FAIL", "ERROR", "done"};
    std::string title =
        fmt::format("kvtool {}: {}", run_.command, kWords.at(static_cast<std::size_t>(outcome_)));
    if (!models_.empty()) title += " – " + models_.front().id;
    return title;
  }

  [[nodiscard]] std::string subtitle(const run::Summary& summary) const {
    std::string text = run_.created_utc;
    const auto add = [&text](const std::string& part) {
      text += (text.empty() ? "" : " · ") + part;
    };
    if (!device_.label.empty()) add(device_.label);
    if (!device_.name.empty()) add(device_.name);
    if (!lines_.empty()) {
      add(fmt::format("{} input{}", lines_.size(), lines_.size() == 1 ? "" : "s"));
    }
    if (summary.steps > 0) add(fmt::format("{} steps", summary.steps));
    if (summary.wall_seconds > 0.0) add(fmt::format("{:.1f} s", summary.wall_seconds));
    return text;
  }

  void write_page(const run::Summary& summary) {
    write_(html::fill(html::report_html,
                      {{"title", html::text(title())},
                       {"generator", html::text("kvtool " + run_.kvtool_version)},
                       {"command", html::text(run_.command)},
                       {"subtitle", html::text(subtitle(summary))},
                       {"style", std::string(html::report_css)},
                       {"sections", sections_},
                       {"run", html::run_section(run_, device_, models_)},
                       {"overview", html::script_json(html::overview_data(summary, lines_))},
                       {"inputs", input_elements_},
                       {"script", html::scripts()}}));
  }

  std::function<void(const std::string&)> write_;
  RunDescription run_;
  run::DeviceDescription device_;
  std::vector<run::ModelDescription> models_;
  nlohmann::json lines_ = nlohmann::json::array();
  std::string input_elements_;
  FlipTexts flip_texts_;
  std::string sections_;
  html::Outcome outcome_ = html::Outcome::kDone;
};

}  // namespace

std::unique_ptr<Reporter> make_html_reporter(
    std::function<void(const std::string& document)> write) {
  return std::make_unique<HtmlReporter>(std::move(write));
}

}  // namespace kvtool::report
