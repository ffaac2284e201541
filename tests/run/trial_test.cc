#include "run/trial/trial.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "kvtool/run/generation.h"
#include "kvtool/run/services.h"
#include "support/fake_engine.h"
#include "support/folder_test.h"

namespace kvtool::run {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;

// Exact but for what a test allows.
const json kExactRules = {{"inject.kv.*.layer_max.relative_l2", {{"max", 0}}}};

class TrialTest : public FolderTest {
 protected:
  void SetUp() override {
    FolderTest::SetUp();
    write("models/tiny.pt", "");
    model_ = make_fake_engine(engine_)->load_model("models/tiny.pt");
  }

  // Four tokens of one input, as a device of this label would have recorded them.
  ReferenceEntry record(const std::string& device_label) {
    Request request;
    request.models = {"models/tiny.pt"};
    request.prompts.emplace_back();
    request.prompts[0].kind = Prompt::Kind::kTokenIds;
    request.prompts[0].token_ids = {5, 9, 12};
    request.max_new_tokens = 4;
    request.ignore_eos = true;
    request.device_label = device_label;
    request.save = true;
    request.logits_sample = logits_sample_;
    request.base_dir = "ref";
    const Services services{
        .open_engine = [this](const std::string&,
                              const engine::EngineOptions&) { return make_fake_engine(engine_); },
        .encoder = {},
        .now = std::chrono::system_clock::now};
    Observer nobody;
    run_generation(request, services, nobody);
    return read_reference_entry("ref/" + device_label + "/tiny/batch1_input0.kvc", recordings_);
  }

  ReferenceSet set_of(std::vector<ReferenceEntry> entries) {
    for (std::size_t i = 0; i < entries.size(); ++i) entries[i].input_index = i;
    ReferenceSet set;
    set.batches = plan_batches(entries, ReplayShape::kSingle);
    set.entries = std::move(entries);
    return set;
  }

  Judgement judge(const ReferenceSet& set, const json& gate, const Trial& trial = {}) {
    return judge(std::span(&set, 1), gate, trial);
  }

  Judgement judge(std::span<const ReferenceSet> sets, const json& gate, const Trial& trial = {}) {
    Observer nobody;
    return TrialRunner(*model_, sets, analysis::GateSpec::parse(gate, "gate"), "HERE", nobody)
        .run(trial, [](std::uint64_t, std::uint64_t) {});
  }

  static std::vector<std::string> figures_of(const Judgement& judgement) {
    std::vector<std::string> names;
    for (const auto& rule : judgement.failed_rules) names.push_back(rule.figure);
    return names;
  }

  FakeEngineState engine_;
  std::uint32_t logits_sample_ = 64;
  OpenRecordings recordings_{posix_file_system()};
  std::unique_ptr<engine::Model> model_;
};

TEST_F(TrialTest, WithoutAnInterventionIsThePlainReplay) {
  const ReferenceSet set = set_of({record("A"), record("B")});
  const Judgement judgement = judge(set, {{"name", "exact"}, {"rules", kExactRules}});
  EXPECT_TRUE(judgement.passed());
  EXPECT_EQ(judgement.gate, "exact");
  EXPECT_EQ(judgement.inputs, 2U);
  EXPECT_EQ(judgement.steps, 6U);
  EXPECT_EQ(judgement.figures.at("inject.tokens.match_rate"), 1.0);
  EXPECT_FALSE(judgement.departure);
}

TEST_F(TrialTest, AFaultIsJudgedAndFoundInItsLayer) {
  const ReferenceSet set = set_of({record("A")});
  const Judgement judgement =
      judge(set, {{"rules", kExactRules}},
            {.fault = engine::Fault{engine::FaultKind::kScaledValues, 1, 0, 0.5}, .modes = {}});
  EXPECT_THAT(figures_of(judgement), ElementsAre("inject.kv.value.layer_max.relative_l2"));
  ASSERT_TRUE(judgement.departure);
  EXPECT_EQ(judgement.departure->layer, 1U);
  EXPECT_THAT(judgement.departure_text, HasSubstr("V of layer 1"));
}

TEST_F(TrialTest, RunsTheModesOfTheTrialElseThoseOfTheGate) {
  const ReferenceSet set = set_of({record("A")});
  const json forced = {{"rules", {{"forced.kl.p99", {{"max", 1}}}}}};
  static_cast<void>(judge(set, forced));
  static_cast<void>(judge(set, forced, {.fault = {}, .modes = {format::ReplayMode::kForced}}));
  std::vector<format::ReplayMode> modes;
  for (const auto& options : engine_.replay_options) modes.push_back(options.mode);
  EXPECT_THAT(modes, ElementsAre(format::ReplayMode::kInject, format::ReplayMode::kForced,
                                 format::ReplayMode::kForced));
}

// The device that comes first has a wide bound; it must not excuse the other's flip.
TEST_F(TrialTest, EachRecordingHasTheNearTieBoundOfItsDevice) {
  logits_sample_ = 0;
  const ReferenceSet set = set_of({record("LAX"), record("STRICT")});
  engine_.perturb = [](std::uint64_t index, format::StepStats& stats) {
    if (index != 1) return;
    std::swap(stats.top_ids[0], stats.top_ids[1]);
    stats.token = stats.top_ids[0];
  };
  const Judgement judgement =
      judge(set, {{"rules", {{"*.tokens.tie_rate", nullptr}}},
                  {"overrides", {{{"reference_device", "LAX"}, {"near_tie_ulps", 1e9}}}}});
  EXPECT_THAT(figures_of(judgement), ElementsAre("inject.tokens.hard_flips"));
  EXPECT_FALSE(judgement.measures_noise) << "the recordings hold no sample";
}

}  // namespace
}  // namespace kvtool::run
