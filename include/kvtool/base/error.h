// The one exception type of kvtool. Every failure that a caller may want to
// tell apart carries an ErrorCode; the command line maps it to the exit status
// in a single place. Messages name the subject (path, offset, record, layer),
// what was expected, what was found, and what to do about it.
#pragma once

#include <memory>
#include <stdexcept>
#include <string>

namespace kvtool {

// Values are the process exit status of the command-line tool, but for kMisuse: who calls
// kvtool's functions there is kvtool, so it ends as kInternal does. Exit status 1 is not an
// error: it says that a comparison failed; nor is 6: recovered with losses.
//
// The first four are for the user to mend. The last two are bugs: nothing that a user may
// say, and no file, leads to them.
enum class ErrorCode : int {
  kUsage = 2,         // wrong option, configuration or prompt
  kIncompatible = 3,  // recordings or model cannot be compared
  kCorrupt = 4,       // file damaged, unreadable or not a recording
  kEnvironment = 5,   // model, device, engine, memory or disk
  kInternal = 70,     // what kvtool takes for certain does not hold
  kMisuse = 71,       // a function was called with what its contract rules out
};

class Error : public std::runtime_error {
 public:
  // `message` may name settings (base/setting.h).
  Error(ErrorCode code, const std::string& message);

  [[nodiscard]] ErrorCode code() const noexcept { return code_; }
  // With settings still marked, for whoever spells them; what() has their bare names.
  [[nodiscard]] const std::string& message() const noexcept { return *message_; }

 private:
  ErrorCode code_;
  std::shared_ptr<const std::string> message_;  // shared, so that copying cannot throw
};

// Shorthands that keep the throwing line readable.
[[noreturn]] void throw_usage(const std::string& message);
[[noreturn]] void throw_incompatible(const std::string& message);
[[noreturn]] void throw_corrupt(const std::string& message);
[[noreturn]] void throw_environment(const std::string& message);
[[noreturn]] void throw_internal(const std::string& message);
[[noreturn]] void throw_misuse(const std::string& message);

}  // namespace kvtool
