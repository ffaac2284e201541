// Which recordings and which model a replay takes, and what it says of those it cannot take.
#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "cli/interrupt.h"
#include "kvtool/format/reader.h"
#include "save_replay_fixture.h"

namespace kvtool::cli {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class ReplaySelection : public SaveReplay {};

TEST_F(ReplaySelection, AStandInTakesThePlaceOfAMissingRow) {
  save(3, "--batch-size 3 --out ref_cache");
  fs::remove("ref_cache/CPU/tiny/batch3_input1.kvc");
  const CommandResult result = run("replay --from CPU");
  EXPECT_EQ(result.status, 0);
  EXPECT_THAT(result.err, HasSubstr("lacks batch3_input1.kvc"));
  EXPECT_THAT(result.out, HasSubstr("Inputs: 2, fully matching: 2"));
  ASSERT_EQ(engine_.replayed_batches.size(), 1U);
  EXPECT_EQ(engine_.replayed_batches[0].rows.size(), 3U);
}

TEST_F(ReplaySelection, ASingleFileRunsAmongItsBatchMates) {
  save(3, "--batch-size 3 --out ref_cache");
  const CommandResult result = run("replay --from ref_cache/CPU/tiny/batch3_input1.kvc");
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_EQ(result.err, "");
  EXPECT_THAT(result.out, HasSubstr("Input 1 (row 1 of a batch of 3)"));
  EXPECT_THAT(result.out, HasSubstr("Inputs: 1, fully matching: 1"));
  EXPECT_EQ(engine_.replayed_batches[0].rows.size(), 3U);
}

TEST_F(ReplaySelection, OfASingleFileThereIsNoNumberOfInputs) {
  save(3, "--batch-size 3 --out ref_cache");
  const std::string file = "ref_cache/CPU/tiny/batch3_input1.kvc";
  const CommandResult result = run("replay --request-number 2 --from " + file);
  EXPECT_EQ(result.status, 2);
  EXPECT_THAT(
      result.err,
      HasSubstr("--from " + file + " is one recording, of which --request-number chooses nothing"));
  EXPECT_EQ(run("replay --request-number 2 --from ref_cache/CPU/tiny").status, 0);
  // One of a configuration may be for another command.
  write("number.json", R"({"request_number": 2})");
  EXPECT_EQ(run("replay --config number.json --from " + file).status, 0);
}

TEST_F(ReplaySelection, ATruncatedRecordingReplaysItsWholeSteps) {
  save(1, "--out ref_cache");
  const fs::path path = "ref_cache/CPU/tiny/batch1_input0.kvc";
  const std::string whole = read(path);
  std::uint64_t steps = 5;
  for (std::size_t size = whole.size() - 1; steps == 5; size -= 16) {
    write(path, whole.substr(0, size));
    steps = format::Recording::open(path).num_steps();
  }
  const CommandResult result = run("replay --from CPU");
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr("is truncated"));
  EXPECT_THAT(result.out, HasSubstr("Steps: 4, Match: 4/4 (100.0%)"));
}

TEST_F(ReplaySelection, ARecordingWithoutATokenIsAnErrorThatNamesIt) {
  save(1, "--out ref_cache");
  const fs::path path = "ref_cache/CPU/tiny/batch1_input0.kvc";
  const std::string whole = read(path);
  std::size_t size = whole.size();
  do {
    size -= 64;
    write(path, whole.substr(0, size));
  } while (format::Recording::open(path).has_prefill());
  const CommandResult result = run("replay --from CPU");
  EXPECT_EQ(result.status, 4);
  EXPECT_THAT(result.err, HasSubstr("batch1_input0.kvc"));
}

TEST_F(ReplaySelection, AMissingInputIsNamed) {
  save(4, "--batch-size 2 --out ref_cache");
  fs::remove("ref_cache/CPU/tiny/batch2_input3.kvc");
  const CommandResult result = run("replay --from CPU --request-number 4");
  EXPECT_EQ(result.status, 2);
  EXPECT_THAT(result.err,
              HasSubstr("KV cache not found for input 3: looked for "
                        "ref_cache/CPU/tiny/batch2_input3.kvc; this folder has batch2_input0.kvc"));
}

TEST_F(ReplaySelection, FewerInputsOnRequest) {
  save(4, "--batch-size 2 --out ref_cache");
  const nlohmann::json result = replay_json("--from CPU --request-number 1");
  EXPECT_EQ(result["summary"]["inputs"], 1);
  EXPECT_EQ(engine_.replayed_batches.at(0).rows.size(), 2U);
}

TEST_F(ReplaySelection, SeveralBatchSizesNeedAChoice) {
  save(2, "--batch-size 1,2 --out ref_cache");
  const CommandResult result = run("replay --from CPU");
  EXPECT_EQ(result.status, 2);
  EXPECT_THAT(result.err, HasSubstr("batch sizes 1, 2"));
  EXPECT_EQ(replay_json("--from CPU --from-batch-size 2")["results"][0]["batch_size"], 2);
  EXPECT_EQ(replay_json("--from CPU --batch-size 1,2")["summary"]["inputs"], 4);
}

TEST_F(ReplaySelection, OtherPromptsOnTheCommandLineAreAnError) {
  save(2, "--out ref_cache");
  write("other.jsonl", "{\"token_ids\": [3, 4]}\n{\"token_ids\": [60]}\n");
  const CommandResult result = run("replay --from CPU --prompts other.jsonl");
  EXPECT_EQ(result.status, 2);
  EXPECT_THAT(result.err, HasSubstr("input 1"));
  EXPECT_EQ(run("replay --from CPU --prompts prompts.jsonl").status, 0);
}

TEST_F(ReplaySelection, AnUnknownLabelListsTheKnownAndProposesAnOutput) {
  save(1, "--out ref_cache");
  save(1, "--device-label GPU1");
  const CommandResult result = run("replay --from GPU1");
  EXPECT_EQ(result.status, 2);
  EXPECT_THAT(result.err, HasSubstr("ref_cache holds CPU"));
  EXPECT_THAT(result.err, HasSubstr("kvtool replay --from outputs/20260102-030405/kv_caches/GPU1"));
}

TEST_F(ReplaySelection, AMissingModelNamesTheExportCommand) {
  save(1, "--out ref_cache");
  fs::remove("models/tiny.pt");
  const CommandResult result = run("replay --from CPU");
  EXPECT_EQ(result.status, 5);
  EXPECT_THAT(result.err, HasSubstr("python3 tools/export_model.py --model Fake/tiny --dtype"));
}

TEST_F(ReplaySelection, AnUnfinishedRecordingReplaysByName) {
  write_prompts(1);
  engine_.on_step = [](std::uint64_t, std::uint64_t step) {
    if (step == 3) interrupt_source().request_stop();
  };
  ASSERT_EQ(run(std::string(kSave) + "--out rec").status, 130);
  interrupt_source().reset();
  engine_.on_step = nullptr;
  EXPECT_EQ(run("replay --from rec/CPU").status, 2);
  const CommandResult result = run("replay --from rec/CPU/tiny/batch1_input0.kvc.partial");
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("Steps: 4, Match: 4/4"));
}

TEST_F(ReplaySelection, SeveralModelsRunOneAfterTheOther) {
  write("models/other.pt", "");
  save(1, "--model models/other.pt --out ref_cache");
  EXPECT_TRUE(fs::exists("ref_cache/CPU/tiny/batch1_input0.kvc"));
  EXPECT_TRUE(fs::exists("ref_cache/CPU/other/batch1_input0.kvc"));
  const CommandResult ambiguous = run("replay --from CPU");
  EXPECT_EQ(ambiguous.status, 2);
  EXPECT_THAT(ambiguous.err, HasSubstr("several models (other, tiny)"));
  EXPECT_EQ(
      replay_json("--from CPU --model models/other.pt --model models/tiny.pt")["summary"]["inputs"],
      2);
}

}  // namespace
}  // namespace kvtool::cli
