#include "kvtool/base/temporary_folder.h"

#include <gmock/gmock.h>

#include <cstdlib>
#include <fstream>

#include "kvtool/base/error.h"
#include "support/error_of.h"

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

TEST(TemporaryFolder, AMissingParentIsNamedWithTheWayOut) {
  const char* before = std::getenv("TMPDIR");
  const std::string kept = before == nullptr ? "" : before;
  ::setenv("TMPDIR", "/nonexistent", 1);
  const Error error = error_of([] { const TemporaryFolder folder("test"); });
  if (before == nullptr) {
    ::unsetenv("TMPDIR");
  } else {
    ::setenv("TMPDIR", kept.c_str(), 1);
  }
  EXPECT_EQ(error.code(), ErrorCode::kEnvironment);
  EXPECT_STREQ(error.what(),
               "no temporary folder can be made in /nonexistent: No such file or directory: set "
               "TMPDIR to a folder that may be written to");
}

}  // namespace
}  // namespace kvtool
