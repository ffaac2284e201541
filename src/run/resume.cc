#include "resume.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "kvtool/analysis/model_config.h"
#include "kvtool/analysis/provenance.h"
#include "kvtool/base/error.h"
#include "kvtool/base/setting.h"
#include "kvtool/format/meta.h"

namespace kvtool::run {
namespace {

namespace fs = std::filesystem;

class SameRun {
 public:
  explicit SameRun(const fs::path& path) : path_(path) {}

  void require(const std::string& what, const std::string& recorded,
               const std::string& here) const {
    if (recorded == here) return;
    throw_usage(path_.string() + ": it was recorded with " + what + " " + recorded +
                ", this run has " + here + ": " + setting("resume") +
                " continues a run with the settings, prompts, model and device that it was started "
                "with. Choose those, or another " +
                setting("out"));
  }
  void require(const std::string& what, std::uint64_t recorded, std::uint64_t here) const {
    require(what, std::to_string(recorded), std::to_string(here));
  }

 private:
  const fs::path& path_;
};

void check_header(const SameRun& same, const format::RecordingHeader& recorded,
                  const format::RecordingHeader& here) {
  same.require("the model", format::to_hex(recorded.model_sha256),
               format::to_hex(here.model_sha256));
  same.require("save mode", std::string(save_mode_name(recorded.save_mode)),
               std::string(save_mode_name(here.save_mode)));
  same.require("top-k", recorded.top_k, here.top_k);
  same.require("a sample of logits of", recorded.logits_sample, here.logits_sample);
  same.require("vocabulary size", recorded.vocab_size, here.vocab_size);
  same.require("logits of", std::string(dtype_name(recorded.logits_dtype)),
               std::string(dtype_name(here.logits_dtype)));
  const std::string difference = describe_difference(recorded.geometry, here.geometry);
  same.require("a cache of other geometry:", difference, "");
}

void check_prompt(const SameRun& same, std::span<const std::int32_t> recorded,
                  const ExpectedRecording& expected) {
  const bool reads_clock = format::text_at(expected.meta, "prompt.clock").has_value();
  const std::string why = reads_clock ? " (the chat template reads the clock)" : "";
  const std::span<const std::int32_t> here = expected.prompt;
  same.require("prompt tokens" + why + ":", recorded.size(), here.size());
  const auto [a, b] = std::ranges::mismatch(recorded, here);
  if (a == recorded.end()) return;
  same.require("prompt token " + std::to_string(a - recorded.begin()) + why, std::to_string(*a),
               std::to_string(*b));
}

// Recordings of before it was recorded cannot tell.
void check_end_tokens(const SameRun& same, const nlohmann::json& recorded,
                      const nlohmann::json& here) {
  static const nlohmann::json::json_pointer kIds("/model/eos_token_ids");
  if (!recorded.contains(kIds) || !here.contains(kIds)) return;
  same.require("end-of-sequence ids", recorded[kIds].dump(), here[kIds].dump());
}

void check_batch(const SameRun& same, const format::RunMeta& recorded,
                 const format::RunMeta& here) {
  same.require("batch size", recorded.batch_size, here.batch_size);
  same.require("batch index", recorded.batch_index, here.batch_index);
  same.require("input", recorded.input_index, here.input_index);
  same.require("row", recorded.row, here.row);
  same.require("rows of the batch", recorded.rows, here.rows);
  same.require("padded prompt length", recorded.padded_length, here.padded_length);
  same.require("max_new_tokens", recorded.max_new_tokens, here.max_new_tokens);
  same.require("cache capacity", recorded.cache_capacity, here.cache_capacity);
  same.require("ignore_eos", recorded.ignore_eos ? "true" : "false",
               here.ignore_eos ? "true" : "false");
}

}  // namespace

std::optional<format::Recording> find_whole_recording(const fs::path& path, Observer& observer) {
  if (!fs::exists(path)) return std::nullopt;
  std::optional<format::Recording> recording;
  try {
    recording = format::Recording::open(path);
    recording->verify();
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kCorrupt) throw;
    throw_corrupt(error.message() + "; with " + setting("resume") +
                  ": remove it, and it is recorded again");
  }
  if (recording->complete()) return recording;
  observer.log(LogLevel::kWarning, path.string() + " is cut short (" + recording->truncation() +
                                       "): it is recorded again");
  return std::nullopt;
}

std::string recorded_clock(const fs::path& path) {
  if (!fs::exists(path)) return {};
  try {
    const format::Recording recording = format::Recording::open(path);
    return format::text_at(recording.meta(), "prompt.clock").value_or("");
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kCorrupt) throw;
    return {};  // find_whole_recording() says so
  }
}

void check_same_config(const fs::path& path, const nlohmann::json& recorded_model,
                       const nlohmann::json& model) {
  const analysis::ConfigComparison configs = analysis::compare_configs(recorded_model, model);
  if (configs.other.empty()) return;
  throw_incompatible(
      path.string() + ": it was recorded with another config of the model: " + setting("resume") +
      " continues with the model that a run was started with. Choose that one, or another " +
      setting("out") + "\n    recorded: " + analysis::recorded_fields(configs.other) +
      "\n    here:     " + analysis::live_fields(configs.other));
}

void check_same_run(const format::Recording& recording, const ExpectedRecording& expected) {
  const fs::path& path = recording.path();
  const SameRun same(path);
  check_header(same, recording.header(), expected.header);
  check_same_config(path, recording.meta().value("model", nlohmann::json()),
                    expected.meta.value("model", nlohmann::json()));
  check_prompt(same, recording.prompt(), expected);
  const auto parsed = [&](const nlohmann::json& meta) {
    return format::checked_run(format::Meta::parse(meta), expected.prompt.size(), path.string());
  };
  const std::optional<format::RunMeta> run = parsed(recording.meta());
  if (!run || recording.meta().contains("replay_of")) {
    throw_usage(path.string() + ": it was not recorded by 'save': " + setting("resume") +
                " cannot continue it. Choose another " + setting("out"));
  }
  check_batch(same, *run, parsed(expected.meta).value());
  check_end_tokens(same, recording.meta(), expected.meta);
  for (const analysis::ProvenanceDifference& difference :
       analysis::compare_provenance(recording.meta(), expected.meta)) {
    if (difference.part == analysis::ProvenancePart::kSystem) continue;
    same.require(difference.label, difference.recorded, difference.live);
  }
}

}  // namespace kvtool::run
