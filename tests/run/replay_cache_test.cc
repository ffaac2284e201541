#include "run/replay_cache.h"

#include <gmock/gmock.h>

#include "kvtool/base/error.h"

namespace kvtool::run {
namespace {

ReferenceEntry made_with(const std::string& cache) {
  ReferenceEntry entry;
  entry.path = "rec/batch1_input0.kvc";
  entry.kv_cache = cache;
  return entry;
}

TEST(ReplayCache, IsTheOneAskedForElseTheRecordings) {
  const cache::CacheSpec int8 = cache::CacheSpec::parse("int8");
  EXPECT_EQ(replay_cache(std::nullopt, made_with("int8")), int8);
  EXPECT_EQ(replay_cache(std::nullopt, ReferenceEntry()), cache::CacheSpec());
  EXPECT_EQ(replay_cache(int8, made_with("contiguous")), int8);
}

// META may come from a newer kvtool, or from anywhere.
TEST(ReplayCache, OneThatThereIsNotCanBeReplacedOnly) {
  const ReferenceEntry entry = made_with("later:page=16");
  EXPECT_EQ(replay_cache(cache::CacheSpec(), entry), cache::CacheSpec());
  try {
    static_cast<void>(replay_cache(std::nullopt, entry));
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kIncompatible);
    const std::string message = error.what();
    EXPECT_EQ(message.find("rec/batch1_input0.kvc was made with a cache that this kvtool lacks: "
                           "cache 'later:page=16', character 1: no cache policy is called "
                           "'later' (there are contiguous, "),
              0U)
        << message;
    EXPECT_NE(message.find("; choose one with kv_cache"), std::string::npos) << message;
  }
}

}  // namespace
}  // namespace kvtool::run
