#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "kvtool/report/reporter.h"
#include "kvtool/report/text.h"

namespace kvtool::report {
namespace {

using Json = nlohmann::ordered_json;

// JSON has no NaN and no Inf.
Json number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

Json text(const std::string& bytes) { return valid_utf8(bytes); }

// Empty means unknown.
Json known(const std::string& value) { return value.empty() ? Json(nullptr) : text(value); }

template <typename T>
Json known(const std::optional<T>& value) {
  return value ? Json(*value) : Json(nullptr);
}

Json object_or_null(const std::string& document) {
  Json parsed = Json::parse(document, nullptr, false);
  return parsed.is_object() ? parsed : Json(nullptr);
}

Json difference(const analysis::KvDifference& kv) {
  if (kv.elements == 0) return nullptr;
  return {{"elements", kv.elements},
          {"differing", kv.differing},
          {"nonfinite", kv.nonfinite},
          {"bitwise_equal", kv.bitwise_equal()},
          {"relative_l2", number(kv.relative_l2())},
          {"relative_max", number(kv.relative_max())},
          {"max_abs", number(kv.max_abs)}};
}

Json mismatch(const analysis::TokenComparison& token, const TokenText& texts) {
  return {{"index", token.index},
          {"recorded", token.recorded},
          {"predicted", token.predicted < 0 ? Json(nullptr) : Json(token.predicted)},
          {"recorded_text", text(texts.recorded)},
          {"predicted_text", text(texts.predicted)},
          {"margin", number(token.margin)},
          {"ulp", number(token.ulp)},
          {"class", analysis::verdict_name(token.verdict)},
          {"nonfinite", token.nonfinite}};
}

Json replay_object(const Replay& replay) {
  const analysis::RowComparison& row = replay.comparison;
  Json recorded = Json::array();
  Json predicted = Json::array();
  Json mismatches = Json::array();
  std::uint64_t logits_equal = 0;
  std::string recorded_text;
  for (std::size_t i = 0; i < row.tokens.size(); ++i) {
    const analysis::TokenComparison& token = row.tokens[i];
    recorded.push_back(token.recorded);
    predicted.push_back(token.predicted < 0 ? Json(nullptr) : Json(token.predicted));
    logits_equal += token.logits_equal ? 1 : 0;
    recorded_text += replay.texts.at(i).recorded;
    if (token.verdict != analysis::TokenVerdict::kMatch) {
      mismatches.push_back(mismatch(token, replay.texts.at(i)));
    }
  }
  const bool token0_matches =
      !row.tokens.empty() && row.tokens.front().verdict == analysis::TokenVerdict::kMatch;
  return {{"recording", text(replay.recording)},
          {"recorded_device", known(replay.recorded_device)},
          {"save_mode", replay.save_mode},
          {"truncation", known(replay.truncation)},
          {"own_step_kv", replay.own_step_kv},
          {"reference_has_prefill_kv", replay.reference_has_prefill_kv},
          {"steps", row.tokens.empty() ? 0 : row.tokens.size() - 1},
          {"matches", row.matches() - (token0_matches ? 1 : 0)},
          {"prefill_token_matches", token0_matches},
          {"first_divergence", known(row.first_divergence())},
          {"ties", row.count(analysis::TokenVerdict::kTie)},
          {"near_ties", row.count(analysis::TokenVerdict::kNearTie)},
          {"hard_flips", row.count(analysis::TokenVerdict::kHardFlip)},
          {"tokens_with_equal_logits", logits_equal},
          {"first_bit_difference", known(row.first_bit_difference)},
          {"bitwise_equal", row.bitwise_equal()},
          {"failed", comparison_failed(row)},
          {"prefill_kv", difference(row.prefill_kv)},
          {"step_kv", difference(row.step_kv)},
          {"recorded_text", text(recorded_text)},
          {"recorded_tokens", std::move(recorded)},
          {"predicted_tokens", std::move(predicted)},
          {"mismatches", std::move(mismatches)}};
}

Json input_object(const InputResult& input) {
  Json object = {{"model", input.model_slug},
                 {"batch_size", input.batch_size},
                 {"rows", input.rows},
                 {"row", input.row},
                 {"input", input.input_index},
                 {"prompt", {{"text", text(input.prompt_text)}, {"tokens", input.prompt_length}}},
                 {"steps", input.timing.steps},
                 {"prefill_seconds", number(input.timing.prefill_seconds)},
                 {"decode_seconds", number(input.timing.decode_seconds)},
                 {"tokens_per_second",
                  number(tokens_per_second(input.timing.steps, input.timing.decode_seconds))}};
  if (input.generation) {
    object["generated"] = {{"text", text(input.generation->text)},
                           {"tokens", input.generation->tokens},
                           {"stop_reason", input.generation->stop_reason}};
  }
  if (input.replay) object["replay"] = replay_object(*input.replay);
  if (input.saved) {
    object["saved"] = {{"path", text(input.saved->path)},
                       {"bytes", input.saved->bytes},
                       {"save_mode", input.saved->save_mode}};
  }
  return object;
}

Json replay_summary(const Summary::Replayed& replayed) {
  Json divergences = Json::array();
  for (const auto& divergence : replayed.first_divergences) {
    divergences.push_back({{"model", divergence.model_slug},
                           {"batch_size", divergence.batch_size},
                           {"input", divergence.input_index},
                           {"index", divergence.token_index},
                           {"class", analysis::verdict_name(divergence.verdict)}});
  }
  return {{"matches", replayed.matches},
          {"prefill_token_matches", replayed.prefill_matches},
          {"inputs_matching", replayed.inputs_matching},
          {"ties", replayed.ties},
          {"near_ties", replayed.near_ties},
          {"hard_flips", replayed.hard_flips},
          {"nonfinite_inputs", replayed.nonfinite_inputs},
          {"inputs_with_equal_logits", replayed.inputs_logits_equal},
          {"inputs_bitwise_equal", replayed.inputs_bitwise_equal},
          {"prefill_kv", difference(replayed.prefill_kv)},
          {"step_kv", difference(replayed.step_kv)},
          {"first_divergences", std::move(divergences)},
          {"failed", replayed.failed}};
}

Json summary_object(const Summary& summary) {
  Json object = {
      {"inputs", summary.inputs},
      {"steps", summary.steps},
      {"prefill_seconds", number(summary.prefill_seconds)},
      {"decode_seconds", number(summary.decode_seconds)},
      {"wall_seconds", number(summary.wall_seconds)},
      {"tokens_per_second", number(tokens_per_second(summary.steps, summary.decode_seconds))}};
  if (summary.replayed) object["replay"] = replay_summary(*summary.replayed);
  if (summary.saved_recordings > 0) {
    object["saved"] = {{"recordings", summary.saved_recordings},
                       {"bytes", summary.saved_bytes},
                       {"directory", text(summary.saved_directory)}};
  }
  return object;
}

Json recording_object(const RecordingInfo& info) {
  Json object = {{"path", text(info.path)}, {"bytes", info.bytes}};
  if (!info.error.empty()) {
    object["error"] = text(info.error);
    return object;
  }
  object.update(
      {{"unfinished_name", info.partial_name},
       {"complete", info.complete},
       {"truncation", known(info.truncation)},
       {"uuid", info.uuid},
       {"model",
        {{"id", known(info.model_id)},
         {"slug", known(info.model_slug)},
         {"dtype", known(info.model_dtype)},
         {"weights_sha256", info.model_sha256}}},
       {"device", {{"label", known(info.device_label)}, {"name", known(info.device_name)}}},
       {"save_mode", info.save_mode},
       {"kv",
        {{"dtype", info.kv_dtype},
         {"layers", info.num_layers},
         {"heads", info.kv_heads},
         {"key_dim", info.key_dim},
         {"value_dim", info.value_dim}}},
       {"batch_size", known(info.batch_size)},
       {"input", known(info.input_index)},
       {"row", known(info.row)},
       {"rows", known(info.rows)},
       {"prompt_tokens", info.prompt_length},
       {"generated_tokens", info.num_tokens},
       {"steps", info.num_steps},
       {"stop_reason", known(info.stop_reason)},
       {"top_k", info.top_k},
       {"vocab_size", info.vocab_size},
       {"created_utc", known(info.created_utc)},
       {"kvtool_version", known(info.kvtool_version)},
       {"torch_version", known(info.torch_version)},
       {"replay_of", known(info.replay_of)},
       {"prompt_text", text(info.prompt_text)},
       {"generated_text", info.generated_text ? text(*info.generated_text) : Json(nullptr)}});
  return object;
}

class JsonReporter : public Reporter {
 public:
  explicit JsonReporter(std::function<void(const std::string&)> write) : write_(std::move(write)) {
    document_["schema_version"] = kSchemaVersion;
  }

  void begin(const RunDescription& run) override {
    document_["command"] = run.command;
    document_["kvtool_version"] = run.kvtool_version;
    document_["created_utc"] = run.created_utc;
  }

  void device(const DeviceDescription& device) override {
    document_["device"] = {{"label", text(device.label)},
                           {"type", text(device.type)},
                           {"name", text(device.name)},
                           {"torch_version", known(device.torch_version)},
                           {"provenance", object_or_null(device.provenance_json)}};
  }

  void model(const ModelDescription& model) override {
    document_["models"].push_back({{"id", text(model.id)},
                                   {"slug", text(model.slug)},
                                   {"path", text(model.path)},
                                   {"architecture", known(model.architecture)},
                                   {"dtype", known(model.dtype)},
                                   {"layers", model.num_layers},
                                   {"weights_sha256", model.weights_sha256}});
  }

  void input(const InputResult& input) override {
    document_["results"].push_back(input_object(input));
  }

  void info(const InfoResult& info) override {
    Json recordings = Json::array();
    std::uint64_t bytes = 0;
    std::uint64_t unreadable = 0;
    for (const RecordingInfo& recording : info.recordings) {
      recordings.push_back(recording_object(recording));
      bytes += recording.bytes;
      unreadable += recording.error.empty() ? 0 : 1;
    }
    document_["totals"] = {
        {"recordings", recordings.size()}, {"bytes", bytes}, {"unreadable", unreadable}};
    document_["recordings"] = std::move(recordings);
  }

  void exported(const DumpResult& dump) override {
    document_["dump"] = {{"recording", text(dump.recording)},
                         {"step", dump.step},
                         {"positions", dump.positions},
                         {"target", text(dump.target)},
                         {"bytes", dump.bytes}};
  }

  void finish(const Summary& summary) override {
    if (summary.inputs > 0) document_["summary"] = summary_object(summary);
    publish();
  }

  void fail(int exit_status, const std::string& message) override {
    document_["error"] = {{"exit_status", exit_status}, {"message", text(message)}};
    publish();
  }

 private:
  void publish() { write_(document_.dump(2, ' ', false, Json::error_handler_t::replace) + "\n"); }

  std::function<void(const std::string&)> write_;
  Json document_;
};

}  // namespace

std::unique_ptr<Reporter> make_json_reporter(
    std::function<void(const std::string& document)> write) {
  return std::make_unique<JsonReporter>(std::move(write));
}

}  // namespace kvtool::report
