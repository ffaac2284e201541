// Ids of models: those that differ in case or punctuation alone have one slug, and neither
// runs the other's file nor is recorded in its folder.
#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "cli_fixture.h"

namespace kvtool::cli {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

constexpr const char* kGenerate = "generate --prompts prompts.jsonl --max-new-tokens 2 --model ";
constexpr const char* kSaveTo = "save --prompts prompts.jsonl --max-new-tokens 3 --ignore-eos ";

class Names : public CommandTest {
 protected:
  void SetUp() override {
    CommandTest::SetUp();
    write_prompts(2);
    // a.pt and b.pt have names of their own, their models one slug.
    for (const char* file : {"models/org_a_1.pt", "models/a.pt", "models/b.pt"}) write(file, "");
    engine_.model_ids = {{"org_a_1", "Org-A.1"}, {"a", "Org-A.1"}, {"b", "org_a-1"}};
  }
};

TEST_F(Names, AnIdRunsTheFileThatHoldsIt) {
  const CommandResult result = run(std::string(kGenerate) + "Org-A.1");
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_EQ(engine_.loaded_models, std::vector<std::string>{"models/org_a_1.pt"});
}

TEST_F(Names, AnIdNeverRunsAnotherIdsFile) {
  for (const char* id : {"ORG-A.1", "org a 1", "org_a-1", "org_a_1", "Org/A.1"}) {
    const CommandResult result =
        run("generate --prompts prompts.jsonl --max-new-tokens 2", {"--model", id});
    EXPECT_EQ(result.status, 2) << id;
    EXPECT_THAT(result.err, HasSubstr("the model '" + std::string(id) +
                                      "' was asked for, but models/org_a_1.pt holds 'Org-A.1'"));
    EXPECT_THAT(result.err, HasSubstr("--model models/org_a_1.pt"));
    EXPECT_TRUE(engine_.loaded_models.empty());
  }
  EXPECT_EQ(run(std::string(kGenerate) + "models/org_a_1.pt").status, 0) << "a file has any name";
}

TEST_F(Names, AnIdWithoutLettersAsksForTheFile) {
  for (const char* id : {"\xE6\xA8\xA1\xE5\x9E\x8B", "///", "..", "-"}) {
    const CommandResult result = run("generate --prompts prompts.jsonl", {"--model", id});
    EXPECT_EQ(result.status, 2) << id;
    EXPECT_THAT(result.err, HasSubstr("--model models/NAME.pt")) << id;
  }
}

TEST_F(Names, AVeryLongIdIsNoTraceback) {
  const CommandResult result = run(std::string(kGenerate) + std::string(5000, 'x'));
  EXPECT_EQ(result.status, 5);
  EXPECT_THAT(result.err, HasSubstr("has not been exported"));
}

TEST_F(Names, AnIdMayEndLikeAFile) {
  write("models/org_name_pt.pt", "");
  engine_.model_ids["org_name_pt"] = "org/name.pt";
  EXPECT_EQ(run(std::string(kGenerate) + "org/name.pt").status, 0);
  const CommandResult none = run(std::string(kGenerate) + "org/other.pt");
  EXPECT_EQ(none.status, 2);
  EXPECT_THAT(none.err, HasSubstr("model file org/other.pt does not exist"));
}

TEST_F(Names, AFolderIsFoundUnderItsName) {
  fs::create_directories("checkpoints/Org-A.1");
  for (const char* given :
       {"./checkpoints/Org-A.1", "checkpoints/Org-A.1", "checkpoints/Org-A.1/"}) {
    EXPECT_EQ(run(std::string(kGenerate) + given).status, 0) << given;
  }
  const CommandResult none = run(std::string(kGenerate) + "./checkpoints");
  EXPECT_EQ(none.status, 5);
  EXPECT_THAT(none.err, HasSubstr("has not been exported"));
}

TEST_F(Names, ModelsOfOneFolderAreRefusedBeforeAnythingRuns) {
  for (const char* options : {"", "--force "}) {
    const CommandResult result =
        run(std::string(kSaveTo) + options + "--out rec --model models/a.pt --model models/b.pt");
    EXPECT_EQ(result.status, 2);
    EXPECT_THAT(result.err, HasSubstr("the models 'Org-A.1' and 'org_a-1' of this run"));
    EXPECT_THAT(result.err, HasSubstr("--out"));
    EXPECT_TRUE(engine_.loaded_models.empty());
    EXPECT_FALSE(fs::exists("rec"));
  }
  const CommandResult twice =
      run(std::string(kSaveTo) + "--out rec --model models/a.pt --model Org-A.1");
  EXPECT_EQ(twice.status, 2) << "also one model under two names";
  EXPECT_EQ(
      run(std::string(kSaveTo) + "--out rec --model models/a.pt --model models/tiny.pt").status, 0);
}

TEST_F(Names, AFolderHoldsRecordingsOfOneModel) {
  ASSERT_EQ(run(std::string(kSaveTo) + "--out rec --model models/a.pt").status, 0);
  // Other names of files, so that none is replaced.
  for (const char* options : {"--batch-size 2", "--batch-size 2 --resume", "--resume"}) {
    const CommandResult result =
        run(std::string(kSaveTo) + "--out rec --model models/b.pt " + options);
    EXPECT_EQ(result.status, 2) << options;
    EXPECT_THAT(result.err, HasSubstr("rec/CPU/org_a_1 holds recordings of the model 'Org-A.1', "
                                      "this run is of 'org_a-1'"));
  }
  EXPECT_EQ(run(std::string(kSaveTo) + "--out rec --model models/b.pt --force").status, 0);
}

TEST_F(Names, AReplayFindsTheModelOfItsRecordingsAlone) {
  ASSERT_EQ(run(std::string(kSaveTo) + "--out ref_cache --model models/b.pt").status, 0);
  const CommandResult other = run("replay --from CPU");
  EXPECT_EQ(other.status, 2);
  EXPECT_THAT(other.err, HasSubstr("'org_a-1' was asked for, but models/org_a_1.pt holds"));
  const CommandResult both = run("replay --from CPU --model models/org_a_1.pt --model Org-A.1");
  EXPECT_EQ(both.status, 2);
  EXPECT_THAT(both.err, HasSubstr("--model at a time"));
  EXPECT_EQ(run("replay --from CPU --model models/b.pt").status, 0);
}

}  // namespace
}  // namespace kvtool::cli
