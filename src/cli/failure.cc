#include "failure.h"

#include <algorithm>
#include <filesystem>
#include <new>

#include "interrupt.h"
#include "kvtool/base/error.h"
#include "kvtool/base/setting.h"

namespace kvtool::cli {
namespace {

constexpr int kEnvironmentStatus = static_cast<int>(ErrorCode::kEnvironment);

}  // namespace

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
    return {static_cast<int>(error.code()), with_options(error.message())};
  } catch (const std::bad_alloc&) {
    return {kEnvironmentStatus,
            "out of memory: use a smaller --batch-size, fewer --max-new-tokens or a smaller model"};
  } catch (const std::filesystem::filesystem_error& error) {
    return {kEnvironmentStatus, error.what()};
  } catch (const std::exception& error) {
    return {kEnvironmentStatus, std::string("unexpected error: ") + error.what()};
  } catch (...) {
    return {kEnvironmentStatus, "unexpected error"};
  }
}

}  // namespace kvtool::cli
