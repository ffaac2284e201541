#include "run/calibrate/worker_messages.h"

#include <gmock/gmock.h>

#include <limits>
#include <nlohmann/json.hpp>

#include "kvtool/base/setting.h"
#include "support/error_of.h"

namespace kvtool::run {
namespace {

using nlohmann::json;
using testing::HasSubstr;

// No member has its default.
Request changed_request() {
  Request request;
  request.config_folder = "configs";
  request.models = {"a.pt", "b\"\n.pt"};
  request.prompts = {text_prompt("h\u00e9llo", "--prompt 1")};
  request.prompts.push_back(parse_prompt({{"token_ids", {1, 2}}}, "p.jsonl line 1"));
  request.prompts.push_back(
      parse_prompt({{"messages", {{{"role", "user"}, {"content", "x"}}}}}, "p.jsonl line 2"));
  request.prompts_must_match = true;
  request.request_number = 3;
  request.batch_sizes = {1, 4};
  request.max_new_tokens = std::numeric_limits<std::uint64_t>::max();
  request.ignore_eos = true;
  request.device = "cuda:1";
  request.device_label = "GPU";
  request.cpu_isa = "avx2";
  request.threads = 2;
  request.kv_cache = cache::CacheSpec::parse("int8");
  request.save = true;
  request.save_mode = format::SaveMode::kFinalOnly;
  request.base_dir = "out";
  request.top_k = 5;
  request.logits_sample = 6;
  request.force = true;
  request.resume = true;
  request.sync = true;
  request.sync_every_steps = 6;
  request.from = "CPU";
  request.ref_dir = "refs";
  request.from_batch_size = 4;
  request.replay_shape = ReplayShape::kSingle;
  request.parallel_memory_bytes = 1 << 20;
  request.replay_modes = {format::ReplayMode::kInject, format::ReplayMode::kFree};
  request.allow_different_weights = true;
  return request;
}

json document_of(const WorkerTask& task) { return json::parse(write_task(task)); }

TEST(WorkerTask, ComesBackAsItWasWritten) {
  const WorkerTask task{.action = WorkerAction::kRecord, .request = changed_request()};
  const WorkerTask read = parse_task(write_task(task));
  EXPECT_EQ(read.action, WorkerAction::kRecord);
  const Request& request = read.request;
  EXPECT_EQ(request.config_folder, "configs");
  EXPECT_EQ(request.models, task.request.models);
  ASSERT_EQ(request.prompts.size(), 3U);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(request.prompts[i].to_json(), task.request.prompts[i].to_json());
    EXPECT_EQ(request.prompts[i].origin, task.request.prompts[i].origin);
  }
  EXPECT_TRUE(request.prompts_must_match);
  EXPECT_EQ(request.request_number, 3U);
  EXPECT_EQ(request.batch_sizes, (std::vector<std::uint64_t>{1, 4}));
  EXPECT_EQ(request.max_new_tokens, std::numeric_limits<std::uint64_t>::max());
  EXPECT_TRUE(request.ignore_eos);
  EXPECT_EQ(request.device, "cuda:1");
  EXPECT_EQ(request.device_label, "GPU");
  EXPECT_EQ(request.cpu_isa, "avx2");
  EXPECT_EQ(request.threads, 2);
  EXPECT_EQ(request.kv_cache, cache::CacheSpec::parse("int8"));
  EXPECT_TRUE(request.save);
  EXPECT_EQ(request.save_mode, format::SaveMode::kFinalOnly);
  EXPECT_EQ(request.base_dir, "out");
  EXPECT_EQ(request.top_k, 5U);
  EXPECT_EQ(request.logits_sample, 6U);
  EXPECT_TRUE(request.force);
  EXPECT_TRUE(request.resume);
  EXPECT_TRUE(request.sync);
  EXPECT_EQ(request.sync_every_steps, 6U);
  EXPECT_EQ(request.from, "CPU");
  EXPECT_EQ(request.ref_dir, "refs");
  EXPECT_EQ(request.from_batch_size, 4U);
  EXPECT_EQ(request.replay_shape, ReplayShape::kSingle);
  EXPECT_EQ(request.parallel_memory_bytes, 1U << 20U);
  EXPECT_EQ(request.replay_modes, task.request.replay_modes);
  EXPECT_TRUE(request.allow_different_weights);
}

TEST(WorkerTask, IsOneLine) {
  const std::string text = write_task({.request = changed_request()});
  EXPECT_EQ(text.find('\n'), text.size() - 1);
}

TEST(WorkerTask, EveryMemberIsWrittenAndNoneMayBeMissing) {
  const json whole = document_of({});
  const json changed = document_of({.action = WorkerAction::kRecord, .request = changed_request()});
  for (const auto& [name, value] : whole["request"].items()) {
    EXPECT_NE(changed["request"][name], value) << name << " has its default in the test above";
    json document = whole;
    document["request"].erase(name);
    const Error error = error_of([&] { (void)parse_task(document.dump()); });
    EXPECT_EQ(error.code(), ErrorCode::kUsage);
    EXPECT_EQ(std::string(error.what()), "the task.request: " + name + " is missing");
  }
}

TEST(WorkerTask, RefusesAnotherVersion) {
  json document = document_of({});
  document["version"] = kWorkerVersion + 1;
  EXPECT_STREQ(error_of([&] { (void)parse_task(document.dump()); }).what(),
               "the task: expected version 3, found 4");
  document.erase("version");
  EXPECT_STREQ(error_of([&] { (void)parse_task(document.dump()); }).what(),
               "the task: expected version 3, found none");
  EXPECT_THAT(error_of([&] { (void)parse_task("[]"); }).what(), HasSubstr("expected version 3"));
}

TEST(WorkerTask, RefusesWhatItDoesNotKnow) {
  json document = document_of({});
  document["request"]["kv_cash"] = "x";
  EXPECT_STREQ(error_of([&] { (void)parse_task(document.dump()); }).what(),
               "the task.request: unknown key 'kv_cash'");
  document = document_of({});
  document["reply"] = true;
  EXPECT_STREQ(error_of([&] { (void)parse_task(document.dump()); }).what(),
               "the task: unknown key 'reply'");
}

TEST(WorkerTask, RefusesAnotherType) {
  const auto refusal = [](const char* name, const json& value) {
    json document = document_of({});
    document["request"][name] = value;
    return std::string(error_of([&] { (void)parse_task(document.dump()); }).what());
  };
  EXPECT_EQ(refusal("threads", "2"),
            "the task.request.threads: expected an integer of its range, "
            "found a string");
  EXPECT_THAT(refusal("threads", 1.5), HasSubstr("threads: expected an integer"));
  EXPECT_THAT(refusal("threads", std::int64_t{1} << 40), HasSubstr("threads: expected an integer"));
  EXPECT_THAT(refusal("top_k", -1), HasSubstr("top_k: expected an integer"));
  EXPECT_THAT(refusal("force", 1), HasSubstr("force: expected true or false"));
  EXPECT_THAT(refusal("from", nullptr), HasSubstr("from: expected a string, found null"));
  EXPECT_THAT(refusal("models", "m.pt"), HasSubstr("models: expected an array"));
  EXPECT_THAT(refusal("batch_sizes", {1, "2"}), HasSubstr("batch_sizes[1]: expected an integer"));
  EXPECT_THAT(refusal("replay_shape", "round"), HasSubstr("expected \"recorded\", \"single\""));
  EXPECT_THAT(refusal("replay_modes", {"free", "fast"}), HasSubstr("replay_modes[1]: expected"));
  EXPECT_THAT(refusal("save_mode", "all"), HasSubstr("the name of a save mode"));
  EXPECT_THAT(refusal("prompts", {"x"}), HasSubstr("prompts[0]: expected an object"));
}

// A path with other bytes in it would be another file.
TEST(WorkerTask, RefusesToWriteWhatJsonCannotHold) {
  Request request;
  request.models = {"mod\xFFl.pt"};
  const Error error = error_of([&] { (void)write_task({.request = request}); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.what(), HasSubstr("not valid UTF-8"));
}

TEST(WorkerAnswer, MeasurementComesBackAsItWasWritten) {
  WorkerMeasurement measured;
  measured.figures = {{"a", 0.1 + 0.2}, {"b", 5e-324}, {"c", 3.0}};
  measured.figures["d"] = std::numeric_limits<double>::infinity();
  measured.largest_gap_ulps = 2.5;
  measured.most_rows = 4;
  measured.groups = 1;
  measured.cache = "int8";
  measured.device = {"CPU", "cpu", "Some CPU", "2.13.0", R"({"threads": 2})"};
  measured.model = {"org/Tiny", "org_tiny", "m.pt", "Llama", "bfloat16", 30, "ab", "cd", "ef"};
  const WorkerAnswer read = parse_answer(write_answer({.error = {}, .measurement = measured}));
  EXPECT_FALSE(read.error);
  ASSERT_TRUE(read.measurement);
  EXPECT_EQ(read.measurement->figures, measured.figures);
  EXPECT_EQ(read.measurement->largest_gap_ulps, 2.5);
  EXPECT_EQ(read.measurement->most_rows, 4U);
  EXPECT_EQ(read.measurement->groups, 1U);
  EXPECT_EQ(read.measurement->cache, "int8");
  EXPECT_EQ(read.measurement->device.label, "CPU");
  EXPECT_EQ(read.measurement->device.type, "cpu");
  EXPECT_EQ(read.measurement->device.name, "Some CPU");
  EXPECT_EQ(read.measurement->device.torch_version, "2.13.0");
  EXPECT_EQ(read.measurement->device.provenance_json, R"({"threads": 2})");
  EXPECT_EQ(read.measurement->model.id, "org/Tiny");
  EXPECT_EQ(read.measurement->model.slug, "org_tiny");
  EXPECT_EQ(read.measurement->model.path, "m.pt");
  EXPECT_EQ(read.measurement->model.architecture, "Llama");
  EXPECT_EQ(read.measurement->model.dtype, "bfloat16");
  EXPECT_EQ(read.measurement->model.num_layers, 30U);
  EXPECT_EQ(read.measurement->model.weights_sha256, "ab");
  EXPECT_EQ(read.measurement->model.config_sha256, "cd");
  EXPECT_EQ(read.measurement->model.graph_sha256, "ef");
}

// Not a number is no figure either: it counts as the worst there is.
TEST(WorkerAnswer, WhatIsNotFiniteIsInfinite) {
  WorkerMeasurement measured;
  measured.figures["a"] = std::numeric_limits<double>::quiet_NaN();
  const WorkerAnswer read = parse_answer(write_answer({.error = {}, .measurement = measured}));
  EXPECT_EQ(read.measurement.value().figures.at("a"), std::numeric_limits<double>::infinity());
}

TEST(WorkerAnswer, ErrorKeepsItsCodeAndItsMarkedSettings) {
  for (const ErrorCode code : {ErrorCode::kUsage, ErrorCode::kIncompatible, ErrorCode::kCorrupt,
                               ErrorCode::kEnvironment, ErrorCode::kInternal, ErrorCode::kMisuse}) {
    const WorkerAnswer read = parse_answer(
        write_answer({.error = WorkerError{code, "choose another " + setting("out") + "\n    so"},
                      .measurement = {}}));
    ASSERT_TRUE(read.error);
    EXPECT_FALSE(read.measurement);
    EXPECT_EQ(read.error->code, code);
    EXPECT_EQ(read.error->message, "choose another " + setting("out") + "\n    so");
  }
}

TEST(WorkerAnswer, NeitherErrorNorMeasurementIsDone) {
  const WorkerAnswer read = parse_answer(write_answer({}));
  EXPECT_FALSE(read.error);
  EXPECT_FALSE(read.measurement);
}

}  // namespace
}  // namespace kvtool::run
