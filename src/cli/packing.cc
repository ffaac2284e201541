#include "packing.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <thread>

#include "kvtool/base/error.h"
#include "kvtool/cli/interrupt.h"
#include "kvtool/cli/paths.h"
#include "kvtool/format/pack.h"
#include "kvtool/format/reader.h"
#include "kvtool/report/text.h"

namespace kvtool::cli {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

class Packing {
 public:
  explicit Packing(const PackingJob& job) : job_(job), statuses_(job.recordings.size()) {
    result_.unpacked = job.unpack;
    result_.recordings.resize(job.recordings.size());
    const unsigned wanted =
        job.threads > 0 ? job.threads : std::max(1U, std::thread::hardware_concurrency());
    result_.threads =
        static_cast<unsigned>(std::clamp<std::size_t>(job.recordings.size(), 1, wanted));
  }

  PackingOutcome run() {
    const Clock::time_point start = Clock::now();
    {
      std::vector<std::jthread> threads;
      for (unsigned i = 0; i < result_.threads; ++i) threads.emplace_back([this] { work(); });
    }
    throw_if_interrupted();
    if (unexpected_) std::rethrow_exception(unexpected_);
    result_.wall_seconds = seconds_since(start);
    const auto failed =
        std::find_if(statuses_.begin(), statuses_.end(), [](int status) { return status != 0; });
    return {std::move(result_), failed == statuses_.end() ? 0 : *failed};
  }

 private:
  void work() {
    for (std::size_t i = next_++; i < job_.recordings.size(); i = next_++) {
      if (interrupted()) return;
      try {
        pack(i);
      } catch (const Error& error) {
        const std::lock_guard lock(mutex_);
        result_.recordings[i].error = error.what();
        statuses_[i] = static_cast<int>(error.code());
        spdlog::error("{}", report::printable(error.what()));
      } catch (const Interrupted&) {
        return;
      } catch (...) {
        const std::lock_guard lock(mutex_);
        if (!unexpected_) unexpected_ = std::current_exception();
        return;
      }
    }
  }

  void pack(std::size_t i) {
    const fs::path& path = job_.recordings[i];
    report::PackedRecording& shown = result_.recordings[i];
    shown.path = path.string();
    if (format::Recording::open(path).packed() != job_.unpack) {
      shown.note = job_.unpack ? "is not packed" : "is packed already";
      return;
    }
    const Clock::time_point start = Clock::now();
    std::uint64_t before = 0;
    format::PackOptions options;
    // In place, a link keeps pointing where it did.
    options.output = job_.output.empty() ? fs::canonical(path) : fs::path(job_.output);
    options.progress = [&](std::uint64_t done) {
      throw_if_interrupted();
      const std::lock_guard lock(mutex_);
      done_ += done - before;
      before = done;
      if (job_.progress) job_.progress(done_);
    };
    const format::PackResult packed = job_.unpack ? format::unpack_recording(path, options)
                                                  : format::pack_recording(path, options);
    shown.original_bytes = packed.original_bytes;
    shown.packed_bytes = packed.packed_bytes;
    shown.seconds = seconds_since(start);
  }

  const PackingJob& job_;
  std::atomic<std::size_t> next_ = 0;
  std::mutex mutex_;
  std::uint64_t done_ = 0;
  std::exception_ptr unexpected_;
  report::PackingResult result_;
  std::vector<int> statuses_;
};

}  // namespace

PackingOutcome run_packing(const PackingJob& job) { return Packing(job).run(); }

}  // namespace kvtool::cli
