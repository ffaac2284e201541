// The error that a call throws; a test failure when it throws none.
#pragma once

#include <gtest/gtest.h>

#include "kvtool/base/error.h"

namespace kvtool {

template <typename Call>
Error error_of(Call&& call) {
  try {
    call();
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "no error";
  return {ErrorCode::kUsage, ""};
}

}  // namespace kvtool
