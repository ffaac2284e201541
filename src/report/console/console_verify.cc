// Verified and recovered recordings on the console.
#include "console/console_page.h"
#include "kvtool/format/writer.h"
#include "wording.h"

namespace kvtool::report {
namespace {

using format::FileState;

constexpr std::size_t kStateColumn = 12;

void show_under_state(ConsolePage& page, const std::string& text) {
  page.wrapped_line(std::string(kStateColumn, ' ') + text, kStateColumn + 2);
}

std::string state_word(const ConsolePage& page, FileState state) {
  const bool good = state == FileState::kIntact;
  std::string word = good ? "ok" : std::string(format::file_state_name(state));
  const std::string padding(kStateColumn - word.size(), ' ');
  return page.painted(good ? Paint::kGood : Paint::kBad, word) + padding;
}

void show_damages(ConsolePage& page, const format::FileVerdict& verdict) {
  for (const format::Damage& damage : verdict.damages) {
    const char* where = verdict.packed && !damage.in_packed ? " unpacked" : "";
    show_under_state(page, fmt::format("{} (byte {}{}: {})", one_line(describe_place(damage)),
                                       damage.offset_bytes, where, one_line(damage.problem)));
  }
}

}  // namespace

void show_verified(ConsolePage& page, const format::FileVerdict& verdict) {
  if (verdict.state == FileState::kIntact && page.options().quiet) return;
  const std::string path = one_line(verdict.path.string());
  if (verdict.state == FileState::kUnreadable) {
    page.line("{}{}", state_word(page, verdict.state), path);
    show_under_state(page, one_line(verdict.error));
    return;
  }
  page.line("{}{}  ({}{}, {}{})", state_word(page, verdict.state), path, megabytes(verdict.bytes),
            verdict.packed ? " packed" : "", counted(verdict.num_steps, "step"),
            path.ends_with(format::kPartialSuffix) ? ", unfinished" : "");
  if (verdict.state == FileState::kDamaged) {
    show_damages(page, verdict);
    show_under_state(
        page, fmt::format("intact from the start: {}", counted(verdict.intact_steps, "step")));
  }
  if (!verdict.truncation.empty()) show_under_state(page, one_line(verdict.truncation));
}

void show_verify_totals(ConsolePage& page, const run::VerifyTotals& totals) {
  std::string text = counted(totals.files, "recording");
  const std::uint64_t failed = totals.truncated + totals.damaged + totals.unreadable;
  if (totals.all_intact()) {
    text += totals.files == 1 ? ", intact" : ", all intact";
  } else {
    text += fmt::format(": {} intact", totals.files - failed);
    if (totals.truncated > 0) text += fmt::format(", {} truncated", totals.truncated);
    if (totals.damaged > 0) text += fmt::format(", {} damaged", totals.damaged);
    if (totals.unreadable > 0) text += fmt::format(", {} unreadable", totals.unreadable);
  }
  const double gigabytes = static_cast<double>(totals.bytes) / 1e9;
  page.line("{}; {} in {:.2f} s, {:.2f} GB/s", text, megabytes(totals.bytes), totals.seconds,
            totals.seconds > 0 ? gigabytes / totals.seconds : 0.0);
  if (totals.recoverable.empty()) return;
  page.line("What is intact can be kept: kvtool recover {} -o OUT.kvc",
            one_line(totals.recoverable));
}

void show_recovery(ConsolePage& page, const run::RecoveryResult& recovery) {
  const format::RecoverResult& result = recovery.result;
  if (!page.options().quiet) show_verified(page, result.input);
  if (result.written) {
    page.line("Wrote {} ({}): {}", one_line(recovery.output), megabytes(result.bytes),
              counted(result.steps, "step"));
  } else {
    page.line("No recording was written");
  }
  if (result.input.state == FileState::kIntact) {
    page.line("The recording is complete and intact: this is a copy, nothing was lost");
  } else if (result.lost.empty()) {
    page.line("Nothing was lost: what was damaged has been made again");
  }
  for (const std::string& lost : result.lost) {
    page.wrapped_line("Lost: " + one_line(lost), 6);
  }
  if (!result.salvaged.empty()) {
    page.line("Salvaged {} of {} in {}", counted(result.salvaged_tensors, "tensor"),
              counted(result.salvaged_steps, "step"), one_line(result.salvaged.string()));
  }
}

}  // namespace kvtool::report
