#include "kvtool/run/packing.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <thread>

#include "kvtool/base/error.h"
#include "kvtool/base/file.h"
#include "kvtool/format/pack.h"
#include "kvtool/format/reader.h"
#include "run/seconds_since.h"

namespace kvtool::run {
namespace {

namespace fs = std::filesystem;

class Packing {
 public:
  Packing(const PackingRequest& request, const StopToken& stop, Observer& observer)
      : request_(request), stop_(stop), observer_(observer), failures_(request.recordings.size()) {
    result_.unpacked = request.unpack;
    result_.recordings.resize(request.recordings.size());
    const unsigned wanted =
        request.threads > 0 ? request.threads : std::max(1U, std::thread::hardware_concurrency());
    result_.threads =
        static_cast<unsigned>(std::clamp<std::size_t>(request.recordings.size(), 1, wanted));
  }

  PackingOutcome run() {
    const Clock::time_point start = Clock::now();
    {
      std::vector<std::jthread> threads;
      for (unsigned i = 0; i < result_.threads; ++i) threads.emplace_back([this] { work(); });
    }
    stop_.throw_if_requested();
    if (unexpected_) std::rethrow_exception(unexpected_);
    result_.wall_seconds = seconds_since(start);
    observer_.progress_done();
    const auto failed = std::find_if(failures_.begin(), failures_.end(),
                                     [](const auto& failure) { return failure.has_value(); });
    return {std::move(result_), failed == failures_.end() ? std::nullopt : *failed};
  }

 private:
  void work() {
    for (std::size_t i = next_++; i < request_.recordings.size(); i = next_++) {
      if (stop_.stop_requested()) return;
      try {
        pack(i);
      } catch (const Error& error) {
        const std::lock_guard lock(mutex_);
        result_.recordings[i].error = error.what();
        failures_[i] = error.code();
        observer_.log(LogLevel::kError, error.message());
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
    const fs::path& path = request_.recordings[i];
    PackedRecording& shown = result_.recordings[i];
    shown.path = path.string();
    if (format::Recording::open(path).packed() != request_.unpack) {
      shown.note = request_.unpack ? "is not packed" : "is packed already";
      return;
    }
    const Clock::time_point start = Clock::now();
    std::uint64_t before = 0;
    format::PackOptions options;
    // In place, a link keeps pointing where it did.
    options.output =
        request_.output.empty() ? fs::canonical(path) : find_output_target(request_.output).path;
    options.progress = [&](std::uint64_t done) {
      stop_.throw_if_requested();
      const std::lock_guard lock(mutex_);
      done_ += done - before;
      before = done;
      // Each byte is read, and read back.
      observer_.progress(std::string(request_.unpack ? "unpack" : "pack") +
                         "ing: " + std::to_string(done_ / 2'000'000) + " MB");
    };
    const format::PackResult packed = request_.unpack ? format::unpack_recording(path, options)
                                                      : format::pack_recording(path, options);
    shown.original_bytes = packed.original_bytes;
    shown.packed_bytes = packed.packed_bytes;
    shown.seconds = seconds_since(start);
  }

  const PackingRequest& request_;
  StopToken stop_;
  Observer& observer_;
  std::atomic<std::size_t> next_ = 0;
  std::mutex mutex_;
  std::uint64_t done_ = 0;
  std::exception_ptr unexpected_;
  PackingResult result_;
  std::vector<std::optional<ErrorCode>> failures_;
};

}  // namespace

PackingOutcome run_packing(const PackingRequest& request, const StopToken& stop,
                           Observer& observer) {
  return Packing(request, stop, observer).run();
}

}  // namespace kvtool::run
