#include "kvtool/base/error.h"

#include "kvtool/base/setting.h"

namespace kvtool {

Error::Error(ErrorCode code, const std::string& message)
    : std::runtime_error(unmarked(message)),
      code_(code),
      message_(std::make_shared<const std::string>(message)) {}

void throw_usage(const std::string& message) { throw Error(ErrorCode::kUsage, message); }
void throw_incompatible(const std::string& message) {
  throw Error(ErrorCode::kIncompatible, message);
}
void throw_corrupt(const std::string& message) { throw Error(ErrorCode::kCorrupt, message); }
void throw_environment(const std::string& message) {
  throw Error(ErrorCode::kEnvironment, message);
}
void throw_internal(const std::string& message) { throw Error(ErrorCode::kInternal, message); }
void throw_misuse(const std::string& message) { throw Error(ErrorCode::kMisuse, message); }

}  // namespace kvtool
