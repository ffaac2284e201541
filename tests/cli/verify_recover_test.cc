// `kvtool verify` and `kvtool recover` as a user meets them.
#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "cli_fixture.h"

namespace kvtool::cli {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

constexpr const char* kInput0 = "rec/CPU/tiny/batch1_input0.kvc";
constexpr const char* kInput1 = "rec/CPU/tiny/batch1_input1.kvc";

class VerifyCommandTest : public CommandTest {
 protected:
  void SetUp() override {
    CommandTest::SetUp();
    save(2, "--out rec", 5);
    whole_ = read(kInput0);
  }

  // The byte in the middle of what stands before CHECKSUMS.
  void damage() {
    std::string damaged = whole_;
    damaged[damaged.size() / 2] = static_cast<char>(damaged[damaged.size() / 2] ^ 1);
    write(kInput0, damaged);
  }

  std::string whole_;
};

TEST_F(VerifyCommandTest, IntactFilesAndFoldersPass) {
  const CommandResult result = run("verify rec --threads 2");
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_THAT(result.out,
              AllOf(HasSubstr(std::string("ok          ") + kInput0), HasSubstr(kInput1),
                    HasSubstr("2 recordings, all intact; "), HasSubstr(" GB/s\n")));
  EXPECT_EQ(result.err, "");
  const CommandResult quiet = run(std::string("verify -q ") + kInput0);
  EXPECT_THAT(quiet.out, AllOf(Not(HasSubstr(kInput0)), HasSubstr("1 recording, intact; ")));
}

TEST_F(VerifyCommandTest, TruncatedFilesFailAndSayWhatToDo) {
  write("rec/cut.kvc.partial", whole_.substr(0, whole_.size() * 3 / 4));
  const CommandResult result = run("verify rec");
  EXPECT_EQ(result.status, 4);
  EXPECT_THAT(result.out,
              AllOf(HasSubstr("truncated   rec/cut.kvc.partial"), HasSubstr("steps, unfinished)"),
                    HasSubstr("whole steps"), HasSubstr("3 recordings: 2 intact, 1 truncated"),
                    HasSubstr("kvtool recover rec/cut.kvc.partial -o OUT.kvc")));
}

TEST_F(VerifyCommandTest, DamageIsListedForPeopleAndPrograms) {
  damage();
  write("rec/none.kvc", "no recording");
  const CommandResult result = run("verify rec");
  EXPECT_EQ(result.status, 4);
  EXPECT_THAT(result.out, AllOf(HasSubstr(std::string("damaged     ") + kInput0),
                                HasSubstr("unreadable  rec/none.kvc"),
                                HasSubstr("3 recordings: 1 intact, 1 damaged, 1 unreadable")));
  const CommandResult listed = run("verify rec --json -");
  EXPECT_EQ(listed.status, 4);
  const auto document = nlohmann::json::parse(listed.out);
  EXPECT_EQ(document["totals"]["files"], 3);
  EXPECT_EQ(document["files"].at(0)["state"], "damaged");
  EXPECT_GE(document["files"].at(0)["damages"].at(0)["offset_bytes"], 256);
  EXPECT_NE(document["files"].at(2)["error"], nullptr);
}

TEST_F(VerifyCommandTest, WrongPathsAreUsageErrors) {
  EXPECT_EQ(run("verify none.kvc").status, 2);
  EXPECT_EQ(run("verify models").status, 2);
  EXPECT_EQ(run("verify rec --threads 0").status, 2);
  EXPECT_EQ(run("verify").status, 2);
}

TEST_F(VerifyCommandTest, RecoverOfAnIntactFileIsACopy) {
  const CommandResult result = run(std::string("recover ") + kInput0 + " -o copy.kvc");
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("complete and intact: this is a copy, nothing was lost"));
  EXPECT_EQ(read("copy.kvc"), whole_);
}

TEST_F(VerifyCommandTest, RecoverOfATruncatedFileSaysWhatWasLost) {
  write("x.kvc.partial", whole_.substr(0, whole_.size() - 300));
  const CommandResult result = run("recover x.kvc.partial -o x.kvc");
  EXPECT_EQ(result.status, 6) << result.err;
  EXPECT_THAT(result.out, AllOf(HasSubstr("Wrote x.kvc"), HasSubstr("Lost: what stood behind")));
  EXPECT_EQ(read("x.kvc.partial"), whole_.substr(0, whole_.size() - 300));
  EXPECT_EQ(run("verify x.kvc").status, 0);
  EXPECT_THAT(run("info x.kvc").out, HasSubstr("complete"));
  EXPECT_EQ(run("recover x.kvc -o y.kvc").status, 0);
  EXPECT_EQ(read("y.kvc"), read("x.kvc"));
}

TEST_F(VerifyCommandTest, RecoverReplacesNothingUnlessForced) {
  write("x.kvc", "older");
  const CommandResult result = run(std::string("recover ") + kInput0 + " -o x.kvc");
  EXPECT_EQ(result.status, 2);
  EXPECT_THAT(result.err, HasSubstr("x.kvc exists already"));
  EXPECT_EQ(read("x.kvc"), "older");
  EXPECT_EQ(run(std::string("recover --force ") + kInput0 + " -o x.kvc").status, 0);
  EXPECT_EQ(read("x.kvc"), whole_);
  EXPECT_EQ(run(std::string("recover --force ") + kInput0 + " -o " + kInput0).status, 2);
  EXPECT_EQ(run(std::string("recover ") + kInput0 + " -o x.txt").status, 2);
  EXPECT_EQ(run("recover none.kvc -o y.kvc").status, 2);
}

TEST_F(VerifyCommandTest, NothingToRecoverIsADamagedFile) {
  write("x.kvc.partial", whole_.substr(0, 300));
  const CommandResult result = run("recover x.kvc.partial -o y.kvc --salvage");
  EXPECT_EQ(result.status, 4);
  EXPECT_THAT(result.err, HasSubstr("nothing can be re"));
}

TEST_F(VerifyCommandTest, PackedRecordingsAreVerifiedAndRecovered) {
  ASSERT_EQ(run(std::string("pack ") + kInput0).status, 0);
  const std::string packed = read(kInput0);
  const CommandResult intact = run(std::string("verify ") + kInput0);
  EXPECT_EQ(intact.status, 0) << intact.err;
  EXPECT_THAT(intact.out, AllOf(HasSubstr(std::string("ok          ") + kInput0),
                                HasSubstr(" packed, "), HasSubstr("1 recording, intact; ")));
  EXPECT_EQ(run(std::string("recover ") + kInput0 + " -o same.kvc").status, 0);
  EXPECT_EQ(read("same.kvc"), packed);
  // The last byte is padding of PACK_END: nothing of the recording is lost.
  std::string damaged = packed;
  damaged.back() = '\1';
  write(kInput0, damaged);
  const CommandResult bad = run(std::string("verify ") + kInput0);
  EXPECT_EQ(bad.status, 4);
  EXPECT_THAT(bad.out, AllOf(HasSubstr("damaged     "), HasSubstr("PACK_END")));
  EXPECT_EQ(run(std::string("recover ") + kInput0 + " -o whole.kvc").status, 0);
  EXPECT_EQ(read("whole.kvc"), whole_);
}

TEST_F(VerifyCommandTest, JsonOfARecovery) {
  write("x.kvc", whole_.substr(0, whole_.size() - 300));
  const CommandResult result = run("recover x.kvc -o y.kvc --json -");
  EXPECT_EQ(result.status, 6);
  const auto document = nlohmann::json::parse(result.out);
  EXPECT_EQ(document["recovery"]["output"], "y.kvc");
  EXPECT_EQ(document["recovery"]["input"]["state"], "truncated");
  EXPECT_EQ(document["recovery"]["lost"].size(), 1);
}

}  // namespace
}  // namespace kvtool::cli
