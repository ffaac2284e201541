#include <fmt/format.h>

#include <utility>

#include "kvtool/base/text.h"
#include "kvtool/run/cache_bench.h"
#include "markdown/markdown_page.h"
#include "report/reporter.h"
#include "wording.h"

namespace kvtool::report {
namespace {

class MarkdownReporter : public Reporter {
 public:
  explicit MarkdownReporter(std::function<void(const std::string&)> write)
      : write_(std::move(write)) {}

  void begin(const RunDescription& run) override { run_ = run; }

  void device(const run::DeviceDescription& device) override {
    facts_ += "- device: " + markdown_text(device.label);
    if (!device.name.empty()) facts_ += " (" + markdown_text(device.name) + ")";
    facts_ += "\n";
  }

  void model(const run::ModelDescription& model) override {
    if (++models_ > kListedModels) return;
    facts_ += fmt::format("- model: {} ({}, {} layers)\n", markdown_text(model.id),
                          markdown_text(model.dtype), model.num_layers);
  }

  void input(const run::InputResult& input) override {
    ++inputs_;
    texts_.add(input);
    if (!input_failed(input)) return;
    ++failed_inputs_;
    if (kept_bytes_ >= kMarkdownBytes) return;
    failures_.push_back(markdown_failed_input(input));
    kept_bytes_ += failures_.back().size();
  }

  void info(const run::InfoResult& info) override {
    MarkdownTable table({"recording", ">prompt", ">tokens", "state"});
    for (const run::RecordingInfo& recording : info.recordings) {
      if (!recording.error.empty()) {
        table.row({markdown_code(recording.path), "-", "-",
                   "unreadable: " + markdown_text(recording.error)});
        continue;
      }
      table.row({markdown_code(recording.path), fmt::format("{}", recording.prompt_length),
                 fmt::format("{}", recording.num_tokens),
                 recording.complete ? "complete" : "truncated"});
    }
    if (!table.empty()) sections_.add(table.text());
  }

  void exported(const run::DumpResult& dump) override {
    sections_.add(
        fmt::format("Wrote {}: K/V after step {}\n\n", markdown_code(dump.target), dump.step));
  }

  void selftest(const run::SelftestResult& result) override {
    failed_ = failed_ || !result.passed();
    judged_ = true;
    add_markdown_selftest(sections_, result);
  }

  void cache_bench(const run::CacheBenchResult& result) override {
    failed_ = failed_ || !result.passed();
    judged_ = true;
    add_markdown_cache_bench(sections_, result);
  }

  void lab(const run::LabResult& result) override { add_markdown_lab(sections_, result); }
  void experiments(const run::ExperimentResult& result) override {
    add_markdown_experiments(sections_, result);
  }

  // Files are checked, not runs: for people on the console, for programs in JSON.

  void calibration(const run::CalibrationResult& result) override {
    add_markdown_calibration(sections_, result);
  }

  void finish(const run::Summary& summary) override {
    judged_ = judged_ || !summary.verdicts.empty();
    failed_ = failed_ || summary.failed();
    MarkdownPage page;
    page.add(title(!judged_ ? "done" : failed_ ? "FAIL" : "PASS"));
    page.add(facts(&summary));
    page.add(sections_.text());
    page.add(missing_list(summary));
    for (const run::Verdict& verdict : summary.verdicts)
      add_markdown_verdict(page, verdict, texts_);
    publish(std::move(page));
  }

  void fail(int exit_status, const std::string& message) override {
    MarkdownPage page;
    page.add(title("ERROR"));
    page.add(fmt::format("Exit status {}: {}\n\n", exit_status, markdown_text(message)));
    page.add(facts(nullptr));
    page.add(sections_.text());
    publish(std::move(page));
  }

 private:
  static constexpr std::size_t kListedModels = 50;
  static constexpr std::size_t kListedMissing = 50;

  [[nodiscard]] std::string title(std::string_view result) const {
    return fmt::format("# kvtool {}: {}\n\n", run_.command, result);
  }

  [[nodiscard]] std::string facts(const run::Summary* summary) const {
    std::string text = facts_;
    if (models_ > kListedModels) {
      text += fmt::format("- … and {}\n", counted(models_ - kListedModels, "more model"));
    }
    if (inputs_ > 0) {
      text += "- " + counted(inputs_, "input");
      if (summary != nullptr) {
        text += fmt::format(", {}, {} tokens/s", counted(summary->steps, "step"),
                            rate(run::tokens_per_second(summary->steps, summary->decode_seconds)));
      }
      text += "\n";
    }
    return text.empty() ? text : text + "\n";
  }

  static std::string missing_list(const run::Summary& summary) {
    if (summary.missing.empty()) return {};
    std::string text = "### Not compared, since it has no partner\n\n";
    for (std::size_t i = 0; i < std::min(summary.missing.size(), kListedMissing); ++i) {
      text += "- " + markdown_code(summary.missing[i]) + "\n";
    }
    if (summary.missing.size() > kListedMissing) {
      text += fmt::format("- … and {}\n", counted(summary.missing.size() - kListedMissing, "more"));
    }
    return text + "\n";
  }

  void publish(MarkdownPage page) {
    if (!failures_.empty()) page.add("### Failed inputs\n\n");
    std::size_t shown = 0;
    for (const std::string& failure : failures_) {
      if (page.full()) break;
      page.add(failure);
      shown += page.full() ? 0 : 1;
    }
    std::string text = page.text();
    if (shown < failed_inputs_) {
      text += fmt::format("… and {} left out: the report is limited to 1 MB.\n",
                          counted(failed_inputs_ - shown, "failed input"));
    } else if (page.full() || sections_.full()) {
      text += fmt::format("… and {} left out: the report is limited to 1 MB.\n",
                          counted(page.left_out() + sections_.left_out(), "section"));
    }
    write_(text);
  }

  std::function<void(const std::string&)> write_;
  RunDescription run_;
  std::string facts_;
  MarkdownPage sections_;
  FlipTexts texts_;
  std::vector<std::string> failures_;
  std::size_t kept_bytes_ = 0;
  std::size_t models_ = 0;
  std::size_t inputs_ = 0;
  std::size_t failed_inputs_ = 0;
  bool judged_ = false;
  bool failed_ = false;
};

}  // namespace

std::unique_ptr<Reporter> make_markdown_reporter(
    std::function<void(const std::string& document)> write) {
  return std::make_unique<MarkdownReporter>(std::move(write));
}

}  // namespace kvtool::report
