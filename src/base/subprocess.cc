#include "kvtool/base/subprocess.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <utility>

#include "kvtool/base/error.h"

extern char** environ;

namespace kvtool {
namespace {

[[noreturn]] void fail(const std::string& what, int error) {
  throw_environment(what + ": " + std::strerror(error));
}

class PipeEnd {
 public:
  PipeEnd() = default;
  explicit PipeEnd(int fd) : fd_(fd) {}
  ~PipeEnd() { reset(); }
  PipeEnd(PipeEnd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  PipeEnd& operator=(PipeEnd&& other) noexcept {
    reset();
    fd_ = std::exchange(other.fd_, -1);
    return *this;
  }
  void reset() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }
  [[nodiscard]] int get() const { return fd_; }
  [[nodiscard]] bool open() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

struct Channel {
  PipeEnd ours;
  PipeEnd theirs;
};

Channel output_channel() {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) fail("cannot create a pipe", errno);
  return {PipeEnd(ends[0]), PipeEnd(ends[1])};
}

// A socket, because send() can be told not to raise SIGPIPE.
Channel input_channel() {
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) {
    fail("cannot create a socket pair", errno);
  }
  return {PipeEnd(ends[0]), PipeEnd(ends[1])};
}

class SpawnSettings {
 public:
  SpawnSettings() {
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    // Ignored signals are inherited across exec; the program gets the defaults.
    sigset_t defaults;
    sigemptyset(&defaults);
    for (const int signal : {SIGPIPE, SIGXFSZ, SIGINT, SIGTERM}) sigaddset(&defaults, signal);
    posix_spawnattr_setsigdefault(&attributes, &defaults);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF);
  }
  ~SpawnSettings() {
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
  }
  SpawnSettings(const SpawnSettings&) = delete;
  SpawnSettings& operator=(const SpawnSettings&) = delete;

  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
};

// Owns a started child: killed and reaped unless wait() was reached.
class Child {
 public:
  explicit Child(pid_t pid) : pid_(pid) {}
  ~Child() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    wait();
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  int wait() {
    int status = 0;
    while (::waitpid(pid_, &status, 0) < 0) {
      if (errno != EINTR) fail("cannot wait for a program", errno);
    }
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

 private:
  pid_t pid_;
};

pid_t spawn(const std::vector<std::string>& argv, const std::array<int, 3>& descriptors) {
  SpawnSettings settings;
  for (int target = 0; target < 3; ++target) {
    posix_spawn_file_actions_adddup2(&settings.actions,
                                     descriptors.at(static_cast<std::size_t>(target)), target);
  }
  std::vector<char*> arguments;
  for (const std::string& argument : argv) arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  pid_t pid = -1;
  const int error = ::posix_spawnp(&pid, argv.front().c_str(), &settings.actions,
                                   &settings.attributes, arguments.data(), environ);
  if (error != 0) fail("cannot start '" + argv.front() + "'", error);
  return pid;
}

void send_some(PipeEnd& target, std::string_view& input) {
  const ssize_t sent =
      ::send(target.get(), input.data(), input.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  if (sent >= 0) {
    input.remove_prefix(static_cast<std::size_t>(sent));
  } else if (errno == EPIPE || errno == ECONNRESET) {
    input = {};  // it does not want the rest; its exit status says why
  } else if (errno != EAGAIN && errno != EINTR) {
    fail("cannot write to a program", errno);
  }
  if (input.empty()) target.reset();
}

void receive_some(PipeEnd& source, std::string& output) {
  std::array<char, 65536> buffer;
  const ssize_t received = ::read(source.get(), buffer.data(), buffer.size());
  if (received > 0) {
    output.append(buffer.data(), static_cast<std::size_t>(received));
  } else if (received == 0) {
    source.reset();
  } else if (errno != EINTR) {
    fail("cannot read from a program", errno);
  }
}

void exchange(PipeEnd& input_end, PipeEnd& output_end, PipeEnd& error_end, std::string_view input,
              const StopToken& stop, ProcessResult& result) {
  if (input.empty()) input_end.reset();
  while (input_end.open() || output_end.open() || error_end.open()) {
    // poll() skips negative descriptors.
    std::array<pollfd, 3> polled{{{input_end.get(), POLLOUT, 0},
                                  {output_end.get(), POLLIN, 0},
                                  {error_end.get(), POLLIN, 0}}};
    if (::poll(polled.data(), polled.size(), 200) < 0 && errno != EINTR) {
      fail("cannot wait for a program's output", errno);
    }
    stop.throw_if_requested();
    if (polled[0].revents != 0) send_some(input_end, input);
    if (polled[1].revents != 0) receive_some(output_end, result.output);
    if (polled[2].revents != 0) receive_some(error_end, result.error_output);
  }
}

}  // namespace

ProcessResult run_process(const std::vector<std::string>& argv, std::string_view input,
                          const StopToken& stop) {
  Channel in = input_channel();
  Channel out = output_channel();
  Channel err = output_channel();
  Child child(spawn(argv, {in.theirs.get(), out.theirs.get(), err.theirs.get()}));
  in.theirs.reset();
  out.theirs.reset();
  err.theirs.reset();
  ProcessResult result;
  exchange(in.ours, out.ours, err.ours, input, stop, result);
  result.exit_status = child.wait();
  return result;
}

}  // namespace kvtool
