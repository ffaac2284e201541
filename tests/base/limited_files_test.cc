#include "kvtool/base/limited_files.h"

#include <gmock/gmock.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "kvtool/base/error.h"
#include "support/counting_file_system.h"
#include "support/error_of.h"
#include "support/folder_test.h"

namespace kvtool {
namespace {

using testing::HasSubstr;

class LimitedFiles : public FolderTest {
 protected:
  void SetUp() override {
    FolderTest::SetUp();
    for (const char* name : {"a", "b", "c"}) write(name, std::string("file ") + name);
  }

  static std::string text_of(const RandomAccessFile& file) {
    std::string text(file.size(), '\0');
    text.resize(file.read(0, std::as_writable_bytes(std::span(text))));
    return text;
  }

  CountingFileSystem counting_;
};

TEST_F(LimitedFiles, KeepsThoseOpenThatWereReadLast) {
  const auto files = limit_open_files(counting_, 2);
  const auto a = files->open("a");
  const auto b = files->open("b");
  EXPECT_EQ(text_of(*a), "file a");
  const auto c = files->open("c");  // in the place of b
  EXPECT_EQ(counting_.open_files(), 2U);
  EXPECT_EQ(text_of(*a), "file a");
  EXPECT_EQ(text_of(*c), "file c");
  EXPECT_EQ(counting_.opens("a"), 1U);
  EXPECT_EQ(counting_.opens("c"), 1U);
  EXPECT_EQ(text_of(*b), "file b");
  EXPECT_EQ(b->size(), 6U);
  EXPECT_EQ(counting_.opens("b"), 2U);
  EXPECT_EQ(counting_.open_files(), 2U);
}

TEST_F(LimitedFiles, ClosesWhatNobodyHas) {
  const auto files = limit_open_files(counting_, 2);
  files->open("a").reset();
  EXPECT_EQ(counting_.open_files(), 0U);
}

TEST_F(LimitedFiles, FilesMayOutliveTheLimit) {
  auto files = limit_open_files(counting_, 1);
  const auto a = files->open("a");
  const auto b = files->open("b");
  files.reset();
  EXPECT_EQ(text_of(*a) + text_of(*b), "file afile b");
}

TEST_F(LimitedFiles, AFileThatWentAwayWhileItWasClosedIsNamed) {
  const auto files = limit_open_files(counting_, 1);
  const auto a = files->open("a");
  const auto b = files->open("b");
  std::filesystem::remove("a");
  const Error error = error_of([&] { static_cast<void>(text_of(*a)); });
  EXPECT_EQ(error.code(), ErrorCode::kCorrupt);
  EXPECT_THAT(error.message(), HasSubstr("a: cannot be opened"));
  EXPECT_EQ(text_of(*b), "file b");
}

TEST_F(LimitedFiles, ThreadsMayReadWhileOthersTakeTheirPlace) {
  const auto files = limit_open_files(counting_, 1);
  std::vector<std::thread> threads;
  for (const char* name : {"a", "b", "c"}) {
    threads.emplace_back([&files, name] {
      const auto file = files->open(name);
      for (int i = 0; i < 500; ++i) ASSERT_EQ(text_of(*file), std::string("file ") + name);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(counting_.open_files(), 0U);
}

}  // namespace
}  // namespace kvtool
