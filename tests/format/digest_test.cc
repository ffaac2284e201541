#include "kvtool/format/digest.h"

#include <gtest/gtest.h>

namespace kvtool::format {
namespace {

// What xxhsum -H2 (xxHash 0.8) prints.
TEST(TextDigest, IsXxh3Of128Bits) {
  EXPECT_EQ(text_digest(""), "99aa06d3014798d86001c324468d497f");
  EXPECT_EQ(text_digest("abc"), "06b05ab6733a618578af5f94892f3950");
}

}  // namespace
}  // namespace kvtool::format
