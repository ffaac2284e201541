#include "kvtool/base/file.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <csignal>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include "kvtool/base/checked.h"
#include "kvtool/base/error.h"
#include "support/error_of.h"

namespace kvtool {
namespace {

using testing::HasSubstr;

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}

class PosixFiles : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "kvtool-base-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  [[nodiscard]] std::filesystem::path path(std::string_view name) const { return folder_ / name; }

  [[nodiscard]] std::string content(std::string_view name) const {
    std::ifstream stream(path(name), std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), {}};
  }

  FileSystem& files_ = posix_file_system();
  std::filesystem::path folder_;
};

TEST_F(PosixFiles, AppendsAndReadsBack) {
  const auto out = files_.create(path("a"));
  out->append(bytes_of("hello "));
  out->append(bytes_of("world"));
  out->sync();
  out->close();
  const auto in = files_.open(path("a"));
  EXPECT_EQ(in->size(), 11u);
  EXPECT_EQ(in->path(), path("a"));
  std::array<std::byte, 5> target{};
  EXPECT_EQ(in->read(6, target), 5u);
  EXPECT_EQ(std::memcmp(target.data(), "world", 5), 0);
}

TEST_F(PosixFiles, FolderIsListedInOrder) {
  for (const char* name : {"c", "a", "b"}) write_output_file(path(name), "x");
  EXPECT_THAT(list_folder(folder_), testing::ElementsAre(path("a"), path("b"), path("c")));
}

TEST_F(PosixFiles, FolderThatCannotBeListedIsNamed) {
  const Error error = error_of([&] { (void)list_folder(path("none")); });
  EXPECT_EQ(error.code(), ErrorCode::kCorrupt);
  EXPECT_THAT(error.what(), testing::HasSubstr(path("none").string() + ": cannot be listed"));
}

TEST_F(PosixFiles, ReadPastTheEndReturnsWhatThereWas) {
  write_output_file(path("a"), "abc");
  const auto in = files_.open(path("a"));
  std::array<std::byte, 5> target{};
  EXPECT_EQ(in->read(1, target), 2u);
  EXPECT_EQ(in->read(3, target), 0u);
  EXPECT_EQ(in->read(1000, target), 0u);
}

TEST_F(PosixFiles, CreateNeverReplacesAFile) {
  write_output_file(path("a"), "old");
  const Error error = error_of([&] { files_.create(path("a")); });
  EXPECT_EQ(error.code(), ErrorCode::kEnvironment);
  EXPECT_THAT(error.what(), HasSubstr("cannot be created: File exists"));
  EXPECT_EQ(content("a"), "old");
}

TEST_F(PosixFiles, TakingOverEmptiesWhatADeadWriterLeft) {
  write_output_file(path("a"), "left behind");
  const auto out = files_.take_over(path("a"));
  EXPECT_EQ(content("a"), "");
  out->append(bytes_of("new"));
  EXPECT_EQ(content("a"), "new");
}

TEST_F(PosixFiles, AFileHasOneWriter) {
  auto out = files_.create(path("a"));
  out->append(bytes_of("mine"));
  const std::string holder = "(pid " + std::to_string(::getpid()) + ")";
  for (int closed = 0; closed < 2; ++closed) {
    const Error error = error_of([&] { files_.take_over(path("a")); });
    EXPECT_EQ(error.code(), ErrorCode::kEnvironment);
    EXPECT_THAT(error.what(), HasSubstr("a: another kvtool"));
    EXPECT_THAT(error.what(), HasSubstr("is writing it: wait for it, or choose another out"));
    if (std::filesystem::exists("/proc/locks")) {
      EXPECT_THAT(error.what(), HasSubstr(holder));
    }
    EXPECT_EQ(content("a"), "mine");
    if (closed == 0) out->close();  // still locked, so that it can be renamed
  }
  out.reset();
  EXPECT_NO_THROW(files_.take_over(path("a")));
}

TEST_F(PosixFiles, AFinishedFileIsNotTakenForTheOneThatWasBegun) {
  auto out = files_.take_over(path("a.partial"));
  out->append(bytes_of("finished"));
  out->close();
  files_.rename(path("a.partial"), path("a"));
  const auto next = files_.take_over(path("a.partial"));
  next->append(bytes_of("next"));
  EXPECT_EQ(content("a"), "finished");
}

// Two writers open the same left file; the first finishes before the second has its lock.
TEST_F(PosixFiles, WritersInARowNeverShareAFile) {
  std::vector<std::thread> writers;
  std::atomic<int> finished{0};
  for (int writer = 0; writer < 4; ++writer) {
    writers.emplace_back([&, writer] {
      for (int i = 0; i < 200; ++i) {
        try {
          const auto out = files_.take_over(path("x.partial"));
          const std::string line = std::to_string(writer) + ":" + std::to_string(i) + "\n";
          for (int part = 0; part < 3; ++part) out->append(bytes_of(line));
          out->close();
          files_.rename(path("x.partial"), path(std::to_string(finished++)));
        } catch (const Error& error) {
          ASSERT_THAT(error.what(), HasSubstr("another kvtool"));
        }
      }
    });
  }
  for (std::thread& writer : writers) writer.join();
  ASSERT_GT(finished, 0);
  for (int i = 0; i < finished; ++i) {
    const std::string whole = content(std::to_string(i));
    ASSERT_EQ(whole.size() % 3, 0U);
    const std::string line = whole.substr(0, whole.size() / 3);
    EXPECT_EQ(whole, line + line + line);
  }
}

TEST_F(PosixFiles, TakingOverFollowsNoLinkAndWaitsForNoPipe) {
  write_output_file(path("precious"), "precious");
  std::filesystem::create_symlink(path("precious"), path("link"));
  EXPECT_THROW(files_.take_over(path("link")), Error);
  EXPECT_EQ(content("precious"), "precious");
  ASSERT_EQ(::mkfifo(path("pipe").c_str(), 0600), 0);
  EXPECT_THROW(files_.take_over(path("pipe")), Error);
  EXPECT_THROW(files_.take_over(folder_), Error);
}

TEST_F(PosixFiles, AFolderIsLockedWithoutAFileUntilTheLockEnds) {
  auto held = files_.lock_folder(folder_);
  if (held == nullptr) GTEST_SKIP() << "no locks on this file system";
  const Error error = error_of([&] { (void)files_.lock_folder(folder_); });
  EXPECT_EQ(error.code(), ErrorCode::kEnvironment);
  EXPECT_THAT(error.what(), HasSubstr("is writing to this folder"));
  EXPECT_TRUE(std::filesystem::is_empty(folder_));
  held.reset();
  EXPECT_NE(files_.lock_folder(folder_), nullptr);
}

TEST_F(PosixFiles, ALockEndsWithItsProcess) {
  const pid_t child = ::fork();
  if (child == 0) {
    const auto lock = files_.lock_folder(folder_);
    const auto out = files_.create(path("a.partial"));
    ::raise(SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_NO_THROW((void)files_.lock_folder(folder_));
  EXPECT_NO_THROW((void)files_.take_over(path("a.partial")));
}

TEST_F(PosixFiles, ParentsAreSyncedWhetherThePathIsRelativeOrNot) {
  files_.create_directories(path("x/y/z"));
  EXPECT_NO_THROW(files_.sync_parents(path("x/y/z")));
  const auto before = std::filesystem::current_path();
  std::filesystem::current_path(folder_);
  EXPECT_NO_THROW(files_.sync_parents("x/y/z"));
  EXPECT_NO_THROW(files_.sync_parents("x"));
  EXPECT_NO_THROW(files_.sync_parents("."));
  std::filesystem::current_path(before);
}

TEST_F(PosixFiles, ClosedFileAcceptsNothing) {
  const auto out = files_.create(path("a"));
  out->close();
  EXPECT_THROW(out->append(bytes_of("x")), Error);
  EXPECT_THROW(out->sync(), Error);
  EXPECT_THROW(out->close(), Error);
}

TEST_F(PosixFiles, SizeLimitIsAnErrorThatSaysHowFarItGot) {
  ::signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  rlimit limit = before;
  limit.rlim_cur = 1'000'000;
  const auto out = files_.create(path("big"));
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
  const std::vector<std::byte> data(1'500'000);
  const Error error = error_of([&] { out->append(data); });
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  ::signal(SIGXFSZ, SIG_DFL);
  EXPECT_EQ(error.code(), ErrorCode::kEnvironment);
  EXPECT_EQ(error.what(), path("big").string() +
                              ": file size limit reached after 1.0 MB: raise the limit "
                              "(ulimit -f) or choose another out");
}

TEST_F(PosixFiles, MissingFileIsUnreadable) {
  const Error error = error_of([&] { files_.open(path("none")); });
  EXPECT_EQ(error.code(), ErrorCode::kCorrupt);
  EXPECT_THAT(error.what(), HasSubstr("none: cannot be opened: No such file or directory"));
}

TEST_F(PosixFiles, FolderAndPipeAreNoFiles) {
  EXPECT_THAT(error_of([&] { files_.open(folder_); }).what(), HasSubstr("is a directory"));
  ASSERT_EQ(::mkfifo(path("pipe").c_str(), 0600), 0);
  EXPECT_THAT(error_of([&] { files_.open(path("pipe")); }).what(),
              HasSubstr("is not a regular file"));
}

TEST_F(PosixFiles, MissingParentFolderIsNamed) {
  const Error error = error_of([&] { files_.create(path("no/such/file")); });
  EXPECT_EQ(error.code(), ErrorCode::kEnvironment);
  EXPECT_THAT(error.what(), HasSubstr("no/such/file: cannot be created: No such file"));
}

TEST_F(PosixFiles, RenameReplaces) {
  write_output_file(path("a"), "new");
  write_output_file(path("b"), "old");
  files_.rename(path("a"), path("b"));
  EXPECT_EQ(content("b"), "new");
  EXPECT_FALSE(std::filesystem::exists(path("a")));
  EXPECT_EQ(error_of([&] { files_.rename(path("a"), path("b")); }).code(), ErrorCode::kEnvironment);
}

TEST_F(PosixFiles, RemoveAcceptsAMissingFile) {
  write_output_file(path("a"), "x");
  files_.remove(path("a"));
  EXPECT_FALSE(std::filesystem::exists(path("a")));
  EXPECT_NO_THROW(files_.remove(path("a")));
  EXPECT_THROW(files_.remove(folder_), Error);
}

TEST_F(PosixFiles, FoldersAreCreatedWithParentsAndSynced) {
  files_.create_directories(path("x/y/z"));
  files_.create_directories(path("x/y/z"));
  EXPECT_TRUE(std::filesystem::is_directory(path("x/y/z")));
  EXPECT_NO_THROW(files_.sync_directory(path("x/y")));
  EXPECT_THROW(files_.sync_directory(path("missing")), Error);
  write_output_file(path("file"), "");
  EXPECT_EQ(error_of([&] { files_.create_directories(path("file/sub")); }).code(),
            ErrorCode::kEnvironment);
}

TEST_F(PosixFiles, AnOutputReplacesAFileAndLeavesNoTemporaryOne) {
  write_output_file(path("a"), "first");
  write_output_file(path("a"), "second");
  EXPECT_EQ(content("a"), "second");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_), {}), 1);
}

TEST_F(PosixFiles, AnOutputGoesBehindALinkWhichStays) {
  namespace fs = std::filesystem;
  fs::create_directory(path("far"));
  write_output_file(path("far/report"), "old");
  fs::create_symlink("far/report", path("link"));
  fs::create_symlink("link", path("second"));
  fs::create_symlink("far/new", path("dangling"));
  write_output_file(path("second"), "through two links");
  write_output_file(path("dangling"), "made");
  EXPECT_TRUE(fs::is_symlink(path("link")) && fs::is_symlink(path("second")));
  EXPECT_TRUE(fs::is_symlink(path("dangling")));
  EXPECT_EQ(content("far/report"), "through two links");
  EXPECT_EQ(content("far/new"), "made");
  fs::create_symlink("round", path("about"));
  fs::create_symlink("about", path("round"));
  EXPECT_EQ(error_of([&] { write_output_file(path("round"), "x"); }).code(), ErrorCode::kUsage);
}

TEST_F(PosixFiles, AnOutputGoesIntoAPipe) {
  ASSERT_EQ(::mkfifo(path("pipe").c_str(), 0600), 0);
  std::string read;
  std::thread reader([&] {
    std::ifstream pipe(path("pipe"));
    read.assign(std::istreambuf_iterator<char>(pipe), {});
  });
  write_output_file(path("pipe"), "report");
  reader.join();
  EXPECT_EQ(read, "report");
  EXPECT_TRUE(std::filesystem::is_fifo(path("pipe")));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_), {}), 1);
}

TEST_F(PosixFiles, AnOutputGoesIntoADevice) {
  namespace fs = std::filesystem;
  if (!fs::is_character_file("/dev/full")) GTEST_SKIP();
  fs::create_symlink("/dev/null", path("nowhere"));
  write_output_file(path("nowhere"), "report");
  EXPECT_TRUE(fs::is_symlink(path("nowhere")) && fs::is_character_file("/dev/null"));
  fs::create_symlink("/dev/full", path("full"));
  const Error error = error_of([&] { write_output_file(path("full"), "report"); });
  EXPECT_EQ(error.code(), ErrorCode::kEnvironment);
  EXPECT_THAT(error.what(), HasSubstr("disk full"));
}

TEST_F(PosixFiles, AnOutputIsAddedToAFileThatAProcessHoldsOpen) {
  if (!std::filesystem::exists("/proc/self/fd")) GTEST_SKIP();
  const int held = ::open(path("log").c_str(), O_WRONLY | O_CREAT, 0600);
  ASSERT_EQ(::write(held, "before,", 7), 7);
  const std::string name = "/proc/self/fd/" + std::to_string(held);
  EXPECT_FALSE(find_output_target(name).can_be_replaced);
  write_output_file(name, "after");
  ::close(held);
  EXPECT_EQ(content("log"), "before,after");
}

TEST_F(PosixFiles, ANameMayBeAsLongAsTheSystemTakes) {
  write_output_file(path(std::string(255, 'n')), "x");
  EXPECT_EQ(content(std::string(255, 'n')), "x");
  for (const std::size_t size : {256U, 5000U}) {
    const Error error = error_of([&] { write_output_file(path(std::string(size, 'n')), "x"); });
    EXPECT_EQ(error.code(), ErrorCode::kUsage);
    EXPECT_THAT(error.what(), HasSubstr("File name too long"));
    EXPECT_LT(std::string(error.what()).size(), 400U);
  }
}

TEST_F(PosixFiles, FailedAtomicWriteLeavesNothing) {
  std::filesystem::create_directory(path("taken"));
  EXPECT_THROW(write_output_file(path("taken"), "x"), Error);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_), {}), 1);
}

TEST_F(PosixFiles, ReadsTextWholeWithinTheLimit) {
  write_output_file(path("a"), "12345");
  EXPECT_EQ(read_text_file(path("a"), 5), "12345");
  const Error error = error_of([&] { read_text_file(path("a"), 4); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.what(), HasSubstr("larger than the 4 bytes"));
  EXPECT_EQ(error_of([&] { read_text_file(path("none"), 4); }).code(), ErrorCode::kUsage);
}

TEST_F(PosixFiles, ReadsTextOfFilesThatClaimToBeEmpty) {
  if (!std::filesystem::exists("/proc/self/status")) GTEST_SKIP();
  EXPECT_THAT(read_text_file("/proc/self/status", 1 << 20), HasSubstr("Name:"));
  EXPECT_THROW(read_text_file("/proc/self/status", 10), Error);
}

TEST(Checked, ReportsOverflow) {
  constexpr std::uint64_t kMax = ~std::uint64_t{0};
  EXPECT_EQ(checked_add(kMax, 0), kMax);
  EXPECT_EQ(checked_add(kMax, 1), std::nullopt);
  EXPECT_EQ(checked_mul(std::uint64_t{1} << 32, std::uint64_t{1} << 31), std::uint64_t{1} << 63);
  EXPECT_EQ(checked_mul(std::uint64_t{1} << 32, std::uint64_t{1} << 32), std::nullopt);
  EXPECT_EQ(align_up(65, 64), 128u);
  EXPECT_EQ(align_up(64, 64), 64u);
}

}  // namespace
}  // namespace kvtool
