#include "engine/torch_error.h"

#include <c10/util/Exception.h>

#include <new>
#include <string_view>
#include <system_error>

#include "kvtool/base/setting.h"
#include "kvtool/base/stop.h"

namespace kvtool::engine {
namespace {

// Torch appends where in its own sources it was; the report of a bug needs all of it.
std::string told(const std::string& text, ErrorCode code) {
  return code == ErrorCode::kInternal ? text : text.substr(0, text.find('\n'));
}

[[noreturn]] void throw_out_of_memory(const std::string& what) {
  throw_environment(what + ": out of memory; use a smaller " + setting("batch_size") +
                    " or fewer tokens");
}

// Torch has no class for memory that the CPU lacks.
bool is_out_of_memory(std::string_view text) {
  return text.find("DefaultCPUAllocator: ") != std::string_view::npos;
}

// A GPU that fails, a library of its vendor that refuses (torch throws a plain c10::Error
// for some of them), or an operation that this device does not have for the model's dtype.
bool is_of_device(const c10::Error& error) {
  const std::string_view text = error.what_without_backtrace();
  return dynamic_cast<const c10::AcceleratorError*>(&error) != nullptr ||
         dynamic_cast<const c10::NotImplementedError*>(&error) != nullptr ||
         text.starts_with("CUDA ") || text.starts_with("cuDNN ");
}

}  // namespace

void throw_translated(const std::string& what, ErrorCode otherwise) {
  try {
    throw;
  } catch (const Error&) {
    throw;
  } catch (const Interrupted&) {
    throw;
  } catch (const c10::OutOfMemoryError& error) {
    throw_environment(what + ": the device is out of memory (" +
                      told(error.what_without_backtrace(), ErrorCode::kEnvironment) +
                      "); use a smaller " + setting("batch_size") + " or fewer tokens");
  } catch (const c10::Error& error) {
    const std::string text = error.what_without_backtrace();
    if (is_out_of_memory(text)) throw_out_of_memory(what);
    const ErrorCode code = is_of_device(error) ? ErrorCode::kEnvironment : otherwise;
    throw Error(code, what + ": " + told(text, code));
  } catch (const std::bad_alloc&) {
    throw_out_of_memory(what);
  } catch (const std::system_error& error) {
    throw_environment(what + ": " + error.what());
  } catch (const std::exception& error) {
    throw Error(otherwise, what + ": " + told(error.what(), otherwise));
  }
}

}  // namespace kvtool::engine
