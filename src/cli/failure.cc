#include "failure.h"

#include <algorithm>
#include <filesystem>
#include <new>
#include <system_error>

#include "interrupt.h"
#include "kvtool/base/error.h"
#include "kvtool/base/file.h"
#include "kvtool/base/setting.h"
#include "kvtool/run/paths.h"

namespace kvtool::cli {
namespace {

constexpr int kEnvironmentStatus = static_cast<int>(ErrorCode::kEnvironment);

Failure bug(const std::string& message) { return {kBugStatus, "a bug in kvtool: " + message}; }

bool is_bug(const Error& error) {
  return error.code() == ErrorCode::kInternal || error.code() == ErrorCode::kMisuse;
}

}  // namespace

int exit_status_of(ErrorCode code) {
  return code == ErrorCode::kMisuse ? kBugStatus : static_cast<int>(code);
}

std::string what_to_report(const std::string& program, int argc, const char* const* argv) {
  std::string command = "kvtool";
  for (int i = 1; i < argc; ++i) command += " " + run::shell_quoted(argv[i]);
  return "Nothing that it was given should lead here. Please report this message, with\n    " +
         program + "\n    " + command +
         "\nthe configuration, if there is one, and what 'kvtool info' says of the recordings.";
}

std::string with_options(std::string_view message) {
  return spelled(message, [](std::string_view name) {
    std::string option = "--" + std::string(name);
    std::replace(option.begin(), option.end(), '_', '-');
    return option;
  });
}

Failure describe_failure(const std::exception_ptr& exception, const StopToken& stop) {
  // The engine may hand on another exception than the one thrown into it.
  if (stop.stop_requested()) return {kInterruptedStatus, "interrupted"};
  try {
    std::rethrow_exception(exception);
  } catch (const Interrupted& error) {
    return {kInterruptedStatus, error.what()};
  } catch (const Error& error) {
    const std::string message = with_options(error.message());
    return is_bug(error) ? bug(message) : Failure{exit_status_of(error.code()), message};
  } catch (const std::bad_alloc&) {
    return {kEnvironmentStatus,
            "out of memory: use a smaller --batch-size, fewer --max-new-tokens or a smaller model"};
  } catch (const std::filesystem::filesystem_error& error) {
    return {kEnvironmentStatus, shortened_path(error.path1()) + ": " + error.code().message()};
  } catch (const std::system_error& error) {
    return {kEnvironmentStatus, error.what()};
  } catch (const std::exception& error) {
    return bug(error.what());
  } catch (...) {
    return bug("an exception that says nothing");
  }
}

}  // namespace kvtool::cli
