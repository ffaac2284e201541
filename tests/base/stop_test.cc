#include "kvtool/base/stop.h"

#include <gtest/gtest.h>

#include <thread>

namespace kvtool {
namespace {

TEST(StopToken, OfNothingIsNeverAskedToStop) {
  const StopToken token;
  EXPECT_FALSE(token.stop_requested());
  EXPECT_NO_THROW(token.throw_if_requested());
}

TEST(StopToken, SeesTheRequestOfItsSourceAlsoFromAnotherThread) {
  StopSource source;
  const StopToken token = source.token();
  const StopToken copy = token;
  EXPECT_FALSE(token.stop_requested());
  std::thread([&source] { source.request_stop(); }).join();
  EXPECT_TRUE(token.stop_requested());
  EXPECT_TRUE(copy.stop_requested());
  EXPECT_THROW(copy.throw_if_requested(), Interrupted);
  source.reset();
  EXPECT_NO_THROW(token.throw_if_requested());
}

}  // namespace
}  // namespace kvtool
