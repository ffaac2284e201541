#include "kvtool/format/verify.h"

#include <algorithm>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>

#include "damage_place.h"
#include "file_scan.h"
#include "format/records/block_reader.h"
#include "format/task_check.h"
#include "kvtool/base/error.h"

namespace kvtool::format {
namespace {

constexpr unsigned kMaxThreads = 256;

// One file that is being checked.
struct Job {
  std::size_t number = 0;  // in the list of paths
  std::unique_ptr<FileScan> scan;
  std::size_t outstanding = 0;  // tasks that some thread works on
  bool mapped = false;          // there are no more tasks
  std::string error;
};

class Verifier {
 public:
  Verifier(const std::vector<std::filesystem::path>& paths, const VerifyOptions& options)
      : paths_(paths),
        options_(options),
        files_(options.file_system != nullptr ? *options.file_system : posix_file_system()),
        verdicts_(paths.size()),
        done_(paths.size()) {}

  std::vector<FileVerdict> run() {
    std::vector<std::thread> others;
    for (unsigned i = 1; i < threads(); ++i) others.emplace_back([this] { work(); });
    work();
    for (std::thread& thread : others) thread.join();
    if (failure_) std::rethrow_exception(failure_);
    return std::move(verdicts_);
  }

 private:
  [[nodiscard]] unsigned threads() const {
    const unsigned wanted =
        options_.threads > 0 ? options_.threads : std::thread::hardware_concurrency();
    return std::clamp(wanted, 1u, kMaxThreads);
  }

  struct Work {
    std::shared_ptr<Job> job;
    std::optional<ScanTask> task;  // empty: only its verdict is missing
  };

  void work() {
    try {
      ReadBlock buffer = make_block();
      while (auto work = take()) {
        if (!work->task || check(*work, buffer)) conclude(*work->job);
      }
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!failure_) failure_ = std::current_exception();
    }
  }

  std::optional<Work> take();
  void open_next();
  bool check(const Work& work, ReadBlock& buffer);
  void conclude(const Job& job);
  void publish(std::size_t number, FileVerdict verdict);

  const std::vector<std::filesystem::path>& paths_;
  const VerifyOptions& options_;
  FileSystem& files_;

  std::mutex mutex_;  // guards everything below
  std::size_t next_path_ = 0;
  std::shared_ptr<Job> current_;
  std::vector<FileVerdict> verdicts_;
  std::vector<bool> done_;
  std::size_t published_ = 0;
  std::uint64_t bytes_done_ = 0;
  std::exception_ptr failure_;
};

void Verifier::open_next() {
  const std::size_t number = next_path_++;
  try {
    auto job = std::make_shared<Job>();
    job->number = number;
    job->scan = std::make_unique<FileScan>(files_, paths_[number], threads());
    current_ = std::move(job);
  } catch (const Error& error) {
    FileVerdict verdict;
    verdict.path = paths_[number];
    verdict.error = error.what();
    publish(number, std::move(verdict));
  }
}

std::optional<Verifier::Work> Verifier::take() {
  const std::lock_guard lock(mutex_);
  while (!failure_) {
    if (!current_) {
      if (next_path_ == paths_.size()) return std::nullopt;
      open_next();
      continue;
    }
    std::optional<ScanTask> task;
    try {
      task = current_->scan->next();
    } catch (const Error& error) {
      current_->error = error.what();
    }
    if (task) {
      ++current_->outstanding;
      return Work{current_, task};
    }
    const std::shared_ptr<Job> job = std::move(current_);
    current_.reset();
    job->mapped = true;
    if (job->outstanding == 0) return Work{job, std::nullopt};
  }
  return std::nullopt;
}

// True for the file's last task.
bool Verifier::check(const Work& work, ReadBlock& buffer) {
  std::vector<BadRecord> bad = check_task(*work.job->scan, *work.task, buffer);
  const std::lock_guard lock(mutex_);
  work.job->scan->add(std::move(bad));
  bytes_done_ += work.job->scan->stored_share(*work.task);
  if (options_.on_progress && !failure_) options_.on_progress(bytes_done_);
  return --work.job->outstanding == 0 && work.job->mapped;
}

void Verifier::conclude(const Job& job) {
  FileVerdict verdict;
  try {
    if (!job.error.empty()) throw_corrupt(job.error);
    verdict = make_verdict(*job.scan, job.scan->finish());
  } catch (const Error& error) {
    verdict = {};
    verdict.path = paths_[job.number];
    verdict.bytes = job.scan->stored_bytes();
    verdict.packed = job.scan->packed() != nullptr;
    verdict.error = error.what();
  }
  const std::lock_guard lock(mutex_);
  publish(job.number, std::move(verdict));
}

// With the lock held.
void Verifier::publish(std::size_t number, FileVerdict verdict) {
  verdicts_[number] = std::move(verdict);
  done_[number] = true;
  for (; published_ < done_.size() && done_[published_]; ++published_) {
    if (options_.on_file && !failure_) options_.on_file(verdicts_[published_]);
  }
}

}  // namespace

std::vector<FileVerdict> verify_files(const std::vector<std::filesystem::path>& paths,
                                      const VerifyOptions& options) {
  return Verifier(paths, options).run();
}

}  // namespace kvtool::format
