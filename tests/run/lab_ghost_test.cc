// What a lab says of pages that had to leave the device, and the run without that.
#include "run/lab/lab_ghost.h"

#include <gmock/gmock.h>

#include "kvtool/run/generation.h"
#include "kvtool/run/services.h"
#include "run/lab/lab_row.h"
#include "support/fake_engine.h"
#include "support/folder_test.h"

namespace kvtool::run {
namespace {

using format::ReplayMode;
using testing::ElementsAre;
using testing::HasSubstr;

// ---- What stands in a row ----------------------------------------------------------

TEST(LabPaging, AStallIsWaitingOfTheTimeOfSteps) {
  LabPaging paging;
  EXPECT_EQ(paging.stall_share(), std::nullopt);
  EXPECT_EQ(paging.ghost_stall_share(), std::nullopt);
  paging.pages = {
      .demands = 8, .hits = 4, .miss_seconds = 0.5, .late_seconds = 0.25, .write_seconds = 0.25};
  paging.decode_seconds = 4.0;
  EXPECT_EQ(paging.stall_share(), 0.25);
  paging.ghost.emplace().decode_seconds = 2.5;
  EXPECT_EQ(paging.ghost_stall_share(), 0.375);
  paging.ghost->missing = "no memory";
  EXPECT_EQ(paging.ghost_stall_share(), std::nullopt);
  paging.pages.miss_seconds.reset();
  EXPECT_EQ(paging.stall_share(), std::nullopt);
}

TEST(LabGhost, IsTheSamePolicyWithRoomForEverything) {
  const auto resident = [](const std::string& spec) {
    return all_resident(cache::CacheSpec::parse(spec)).to_string();
  };
  for (const std::string room : {"7", "256M", "25%", "100%"}) {
    EXPECT_EQ(
        resident("paged:page=4,device=" + room + ",residency=predictive,select=quest"),
        cache::CacheSpec::parse("paged:page=4,residency=predictive,select=quest").to_string());
  }
}

Judgement judged(std::uint64_t seen_keys, std::vector<std::int32_t> tokens) {
  TrialBatch batch;
  batch.kv_cache = cache::CacheSpec::parse("paged:page=4");
  ModeRun free{.mode = ReplayMode::kFree, .decode_seconds = 100.0};
  free.cache_use.seen_keys = 1;
  ModeRun forced{.mode = ReplayMode::kForced, .decode_seconds = 2.0};
  forced.cache_use.seen_keys = seen_keys;
  forced.cache_use.pages = {.demands = 6, .hits = 2};
  batch.runs = {free, forced};
  Judgement judgement;
  judgement.batches = {batch, batch};
  judgement.tokens[ReplayMode::kForced] = std::move(tokens);
  judgement.tokens[ReplayMode::kFree] = {7};
  return judgement;
}

TEST(LabPaging, IsOfAllBatchesOfOneMode) {
  const LabPaging paging = lab_paging(judged(30, {}).batches, ReplayMode::kForced);
  EXPECT_EQ(paging.pages.demands, 12U);
  EXPECT_EQ(paging.pages.hits, 4U);
  EXPECT_EQ(paging.decode_seconds, 4.0);
}

TEST(LabGhost, CountsTokensThatDiffer) {
  LabTime time;
  time.step_ms = {1.0, 2.0};
  const LabGhost ghost =
      lab_ghost(judged(30, {5, 6, 7, 8}), judged(30, {5, 9, 7, 1}), ReplayMode::kForced, time);
  EXPECT_TRUE(ghost.ran());
  EXPECT_EQ(ghost.other_tokens, 2U);
  EXPECT_EQ(ghost.decode_seconds, 4.0);
  EXPECT_THAT(ghost.step_ms, ElementsAre(1.0, 2.0));
}

TEST(LabGhost, ThatSawOtherKeysIsNone) {
  const LabGhost ghost = lab_ghost(judged(30, {5}), judged(31, {5}), ReplayMode::kForced, {});
  EXPECT_FALSE(ghost.ran());
  EXPECT_EQ(ghost.missing, "all resident, steps saw 62 keys instead of 60");
}

TEST(LabBytes, AStepReadsAPageOnceWhereverItIs) {
  const format::Geometry geometry({{DType::kFloat32, DType::kFloat32, 1, 4, 4}});
  const LabSteps steps{
      .inputs = 1, .steps = 10, .visible_keys = 360, .shortest = 40, .longest = 40};
  const auto read = [&](const std::string& spec) {
    TrialBatch batch{.rows = 1, .padded_length = 30, .cache_capacity = 40};
    batch.kv_cache = cache::CacheSpec::parse(spec);
    batch.runs = {{.mode = ReplayMode::kForced, .decode_steps = 10}};
    LabRow row;
    take_batches(std::vector{batch}, ReplayMode::kForced, geometry, steps, row);
    return row.bytes.read_bytes_per_step;
  };
  EXPECT_EQ(read("paged:page=4,device=3"), 36.0 * 2 * 4 * 4);
  EXPECT_EQ(read("paged:page=4,device=3,codec=int8"), read("int8"));
}

// ---- A lab -------------------------------------------------------------------------

class LabGhostRun : public FolderTest {
 protected:
  void SetUp() override {
    FolderTest::SetUp();
    write("models/tiny.pt", "");
    Request request;
    request.models = {"models/tiny.pt"};
    request.prompts.emplace_back();
    request.prompts[0].kind = Prompt::Kind::kTokenIds;
    request.prompts[0].token_ids = {5, 9, 12};
    request.max_new_tokens = 6;
    request.ignore_eos = true;
    request.save = true;
    request.base_dir = "ref";
    run_generation(request, services(), nobody_);
    engine_.cache_use = [this](const cache::CacheSpec& spec) { return use_of(spec); };
    engine_.replay_options.clear();
  }

  // Of a paged cache with little room.
  cache::CacheUse use_of(const cache::CacheSpec& spec) const {
    cache::CacheUse use;
    use.seen_keys = 20;
    use.visible_keys = 40;
    use.most_visible_keys = 8;
    if (spec.policy() != "paged" || spec.room("device") == cache::Room()) {
      use.seen_keys += ghost_sees_more_;
      return use;
    }
    use.paged_out = use.read_back = 4;
    use.pages = {.demands = 10, .hits = 6, .miss_seconds = 0.5};
    return use;
  }

  Services services() {
    return {
        .open_engine = [this](const std::string&,
                              const engine::EngineOptions&) { return make_fake_engine(engine_); },
        .encoder = {},
        .now = std::chrono::system_clock::now};
  }

  LabResult lab(std::vector<std::string> policies) {
    LabRequest request;
    request.run.from = "ref/CPU/tiny";
    request.run.models = {"models/tiny.pt"};
    request.policies = std::move(policies);
    request.controls = false;
    return run_lab(request, services(), nobody_);
  }

  // Specs of the replays.
  std::vector<std::string> replayed() const {
    std::vector<std::string> specs;
    for (const engine::ReplayOptions& options : engine_.replay_options) {
      specs.push_back(options.kv_cache.to_string());
    }
    return specs;
  }

  FakeEngineState engine_;
  Observer nobody_;
  std::uint64_t ghost_sees_more_ = 0;
};

constexpr const char* kPaged = "paged:page=2,device=2,select=quest,budget=3,recent=1,dense=0";

TEST_F(LabGhostRun, FollowsEachRowThatPagedOut) {
  const LabResult result = lab({"int8", kPaged});
  EXPECT_THAT(replayed(), ElementsAre("contiguous", "int8", HasSubstr("device=2,"),
                                      HasSubstr("paged:page=2,device=100%,")));
  ASSERT_EQ(result.rows.size(), 3U);
  EXPECT_FALSE(result.rows[1].paging.ghost);
  const LabPaging& paging = result.rows[2].paging;
  EXPECT_EQ(paging.pages.hit_rate(), 0.6);
  EXPECT_EQ(paging.decode_seconds, 2.0);
  EXPECT_EQ(paging.stall_share(), 0.25);
  ASSERT_TRUE(paging.ghost);
  EXPECT_TRUE(paging.ghost->ran()) << paging.ghost->missing;
  EXPECT_EQ(paging.ghost->step_ms.size(), 5U);
  EXPECT_EQ(paging.ghost->other_tokens, 0U);
  EXPECT_EQ(paging.ghost_stall_share(), 0.0);
  // The row is still that of the policy.
  EXPECT_THAT(result.rows[2].spec, HasSubstr("device=2,"));
}

TEST_F(LabGhostRun, SaysWhereItIsNone) {
  ghost_sees_more_ = 1;
  const LabPaging paging = lab({kPaged}).rows.at(1).paging;
  ASSERT_TRUE(paging.ghost);
  EXPECT_EQ(paging.ghost->missing, "all resident, steps saw 21 keys instead of 20");
  EXPECT_EQ(paging.ghost_stall_share(), std::nullopt);
  EXPECT_EQ(paging.stall_share(), 0.25);
}

}  // namespace
}  // namespace kvtool::run
