#include "kvtool/base/temporary_folder.h"

#include <gtest/gtest.h>

#include <fstream>

namespace kvtool {
namespace {

namespace fs = std::filesystem;

TEST(TemporaryFolder, IsEmptyAtFirstAndGoneWithItsFiles) {
  fs::path path;
  {
    const TemporaryFolder folder("test");
    const TemporaryFolder other("test");
    path = folder.path();
    EXPECT_NE(path, other.path());
    EXPECT_TRUE(path.filename().string().starts_with("kvtool_test_"));
    EXPECT_TRUE(fs::is_empty(path));
    std::ofstream(path / "file") << "content";
  }
  EXPECT_FALSE(fs::exists(path));
}

}  // namespace
}  // namespace kvtool
