#include "kvtool/base/error.h"

namespace kvtool {

void throw_usage(const std::string& message) { throw Error(ErrorCode::kUsage, message); }
void throw_incompatible(const std::string& message) {
  throw Error(ErrorCode::kIncompatible, message);
}
void throw_corrupt(const std::string& message) { throw Error(ErrorCode::kCorrupt, message); }
void throw_environment(const std::string& message) {
  throw Error(ErrorCode::kEnvironment, message);
}

}  // namespace kvtool
