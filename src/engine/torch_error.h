// Translates torch's exceptions at the engine's edge.
#pragma once

#include <c10/util/Exception.h>

#include <new>
#include <string>

#include "kvtool/base/error.h"

namespace kvtool::engine {

// First line of what torch says, without its stack trace.
inline std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

// Runs `body`; kvtool's own errors pass, others become kEnvironment errors that
// start with `what`.
template <typename Body>
auto translate_torch_errors(const std::string& what, Body&& body) -> decltype(body()) {
  try {
    return body();
  } catch (const Error&) {
    throw;
  } catch (const c10::OutOfMemoryError& error) {
    throw_environment(what + ": the device is out of memory (" +
                      first_line(error.what_without_backtrace()) +
                      "); use a smaller batch size or fewer tokens");
  } catch (const c10::Error& error) {
    throw_environment(what + ": " + first_line(error.what_without_backtrace()));
  } catch (const std::bad_alloc&) {
    throw_environment(what + ": out of memory; use a smaller batch size or fewer tokens");
  } catch (const std::exception& error) {
    throw_environment(what + ": " + first_line(error.what()));
  }
}

}  // namespace kvtool::engine
