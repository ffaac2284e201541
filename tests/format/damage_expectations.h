// What tests of wrong files expect of the reader: an Error that says what is wrong.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "raw_recording.h"
#include "support/error_of.h"

namespace kvtool::format {

inline constexpr const char* kAdvice = ": the file is damaged, copy it again or record again";

inline Error open_error(const Bytes& bytes) {
  return error_of([&] { static_cast<void>(open_bytes(bytes)); });
}

inline void expect_corrupt(const Bytes& bytes, const std::string& message) {
  const Error error = open_error(bytes);
  EXPECT_EQ(error.code(), ErrorCode::kCorrupt);
  EXPECT_EQ(std::string(error.what()), "x.kvc: " + message);
}

// Damage that opening may leave to verify(); both ways to index the file must see it.
inline void expect_damage(const Bytes& bytes, const std::string& part) {
  const Error whole = error_of([&] { open_bytes(bytes).verify(); });
  EXPECT_EQ(whole.code(), ErrorCode::kCorrupt);
  EXPECT_THAT(whole.what(),
              testing::AllOf(testing::StartsWith("x.kvc: "), testing::HasSubstr(part)));
}

inline RawRecording raw(SaveMode mode = SaveMode::kDelta) {
  return RawRecording(sample_header(mode));
}

}  // namespace kvtool::format
