#include "worker_process.h"

#include <string_view>

#include "kvtool/base/error.h"
#include "kvtool/base/stop.h"

namespace kvtool::run {
namespace {

// Exit status of a worker that was asked to stop.
constexpr int kInterruptedWorker = 130;
constexpr std::string_view kErrorPrefix = "kvtool: error: ";

// The last error that a worker logged; all of its log when it logged none.
std::string message_of(const ProcessResult& done) {
  const auto at = done.error_output.rfind(kErrorPrefix);
  std::string message = at == std::string::npos
                            ? done.error_output
                            : done.error_output.substr(at + kErrorPrefix.size());
  while (!message.empty() && message.back() == '\n') message.pop_back();
  return message;
}

// Of a worker that gave no answer.
[[noreturn]] void throw_end(const std::string& what, const ProcessResult& done) {
  if (done.exit_status == kInterruptedWorker) throw Interrupted();
  const int status = done.exit_status;
  const bool known = (status >= static_cast<int>(ErrorCode::kUsage) &&
                      status <= static_cast<int>(ErrorCode::kEnvironment)) ||
                     status == static_cast<int>(ErrorCode::kInternal);
  throw Error(known ? static_cast<ErrorCode>(status) : ErrorCode::kEnvironment,
              what + " failed" + (known ? "" : " with exit status " + std::to_string(status)) +
                  ": " + message_of(done));
}

// Libraries may write to standard output, too: the answer is its last line.
std::string_view last_line(std::string_view output) {
  while (output.ends_with('\n')) output.remove_suffix(1);
  return output.substr(output.rfind('\n') + 1);
}

}  // namespace

WorkerAnswer ask_worker(const Services& services, const WorkerTask& task, const std::string& what) {
  const ProcessResult done = services.worker(write_task(task));
  if (done.exit_status != 0) throw_end(what, done);
  WorkerAnswer answer;
  try {
    answer = parse_answer(last_line(done.output));
  } catch (const Error& error) {
    throw_environment(what + " failed: its process gave no answer: " + error.message());
  }
  if (answer.error) throw Error(answer.error->code, what + " failed: " + answer.error->message);
  return answer;
}

}  // namespace kvtool::run
