#include "audience.h"

#include <spdlog/spdlog.h>

#include <utility>

#include "failure.h"
#include "kvtool/base/text.h"

namespace kvtool::cli {
namespace {

spdlog::level::level_enum log_level(run::LogLevel level) {
  switch (level) {
    case run::LogLevel::kDebug: return spdlog::level::debug;
    case run::LogLevel::kInfo: return spdlog::level::info;
    case run::LogLevel::kWarning: return spdlog::level::warn;
    case run::LogLevel::kError: return spdlog::level::err;
  }
  return spdlog::level::err;
}

}  // namespace

Audience::Audience(const Terminal& terminal, bool quiet, report::Reporter& reporter,
                   NextCommand next_command)
    : reporter_(reporter),
      next_command_(std::move(next_command)),
      line_(terminal.err, terminal.err_is_terminal && !quiet) {}

void Audience::log(run::LogLevel level, const std::string& message) {
  if (!spdlog::should_log(log_level(level))) return;
  line_.clear();
  // Messages quote files, which may hold anything.
  spdlog::log(log_level(level), "{}", printable(with_options(message)));
}

void Audience::progress(const std::string& what) { line_.update(what); }

void Audience::progress_of(const std::string& what, std::uint64_t done, std::uint64_t total) {
  line_.update(progress_bar(what, done, total));
}

void Audience::progress_done() { line_.clear(); }

void Audience::calibration(const run::CalibrationResult& result) {
  run::CalibrationResult shown = result;
  for (std::string& note : shown.notes) note = with_options(note);
  reporter_.calibration(shown);
}

void Audience::finish(const run::Summary& summary) {
  line_.clear();
  run::Summary shown = summary;
  for (run::Verdict& verdict : shown.verdicts) {
    verdict.finding_text = with_options(verdict.finding_text);
  }
  if (next_command_) shown.next_command = next_command_(summary);
  reporter_.finish(shown);
}

}  // namespace kvtool::cli
