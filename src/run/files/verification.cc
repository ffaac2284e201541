#include "kvtool/run/verification.h"

#include <chrono>
#include <system_error>

#include "kvtool/format/verify.h"
#include "kvtool/run/paths.h"

namespace kvtool::run {
namespace {

namespace fs = std::filesystem;

void count(const format::FileVerdict& verdict, VerifyTotals& totals) {
  using format::FileState;
  ++totals.files;
  totals.bytes += verdict.bytes;
  totals.truncated += verdict.state == FileState::kTruncated ? 1 : 0;
  totals.damaged += verdict.state == FileState::kDamaged ? 1 : 0;
  totals.unreadable += verdict.state == FileState::kUnreadable ? 1 : 0;
  const bool recoverable =
      verdict.state == FileState::kTruncated || verdict.state == FileState::kDamaged;
  if (recoverable && totals.recoverable.empty()) {
    totals.recoverable = shell_quoted(verdict.path.string());
  }
}

std::uint64_t bytes_of(const std::vector<fs::path>& recordings) {
  std::uint64_t total = 0;
  for (const fs::path& path : recordings) {
    std::error_code ignored;
    const auto size = fs::file_size(path, ignored);
    total += ignored ? 0 : size;
  }
  return total;
}

}  // namespace

VerifyTotals run_verification(const VerificationRequest& request, const Services& services,
                              Observer& observer) {
  const std::uint64_t total_bytes = bytes_of(request.recordings);
  VerifyTotals totals;
  format::VerifyOptions options;
  options.threads = request.threads;
  options.on_progress = [&](std::uint64_t done) {
    services.stop.throw_if_requested();
    observer.progress_of("Verifying", done, total_bytes);
  };
  options.on_file = [&](const format::FileVerdict& verdict) {
    observer.progress_done();
    count(verdict, totals);
    observer.verified(verdict);
  };
  const auto start = std::chrono::steady_clock::now();
  static_cast<void>(format::verify_files(request.recordings, options));
  observer.progress_done();
  totals.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  observer.verified_all(totals);
  return totals;
}

}  // namespace kvtool::run
