#include "worker_messages.h"

#include <utility>

#include "json_fields.h"
#include "kvtool/base/error.h"

namespace kvtool::run {
namespace {

using nlohmann::json;

constexpr const char* kVersionKey = "version";

// Breaks with every new member of Request, which then needs a line in its table below.
[[maybe_unused]] void every_member_of_a_request(const Request& request) {
  [[maybe_unused]] const auto& [config_folder, models, prompts, prompts_must_match, request_number,
                                batch_sizes, max_new_tokens, ignore_eos, device, device_label,
                                cpu_isa, threads, kv_cache, save, save_mode, base_dir, top_k,
                                logits_sample, force, resume, sync, sync_every_steps, from, ref_dir,
                                from_batch_size, replay_shape, parallel_memory_bytes, replay_modes,
                                gate, allow_different_weights] = request;
}

// An enumeration as one of its names.
template <typename T, std::size_t kCount>
T named(const json& value, const std::string& where,
        const std::array<std::pair<T, const char*>, kCount>& names) {
  std::string expected;
  for (const auto& [each, name] : names) {
    if (value == name) return each;
    expected += (expected.empty() ? "\"" : ", \"") + std::string(name) + "\"";
  }
  fail_to_read(where, expected, value);
}

template <typename T, std::size_t kCount>
json name_of(T value, const std::array<std::pair<T, const char*>, kCount>& names) {
  for (const auto& [each, name] : names) {
    if (each == value) return name;
  }
  throw_internal("an enumerator without a name");
}

constexpr std::array kActions = {std::pair{WorkerAction::kRecord, "record"},
                                 std::pair{WorkerAction::kMeasure, "measure"}};
constexpr std::array kShapes = {std::pair{ReplayShape::kRecorded, "recorded"},
                                std::pair{ReplayShape::kSingle, "single"},
                                std::pair{ReplayShape::kParallel, "parallel"}};
constexpr std::array kCodes = {std::pair{ErrorCode::kUsage, "usage"},
                               std::pair{ErrorCode::kIncompatible, "incompatible"},
                               std::pair{ErrorCode::kCorrupt, "corrupt"},
                               std::pair{ErrorCode::kEnvironment, "environment"},
                               std::pair{ErrorCode::kInternal, "internal"},
                               std::pair{ErrorCode::kMisuse, "misuse"}};

}  // namespace

template <>
struct JsonCodec<WorkerAction> {
  static json write(WorkerAction value) { return name_of(value, kActions); }
  static WorkerAction read(const json& value, const std::string& where) {
    return named(value, where, kActions);
  }
};

template <>
struct JsonCodec<ReplayShape> {
  static json write(ReplayShape value) { return name_of(value, kShapes); }
  static ReplayShape read(const json& value, const std::string& where) {
    return named(value, where, kShapes);
  }
};

template <>
struct JsonCodec<ErrorCode> {
  static json write(ErrorCode value) { return name_of(value, kCodes); }
  static ErrorCode read(const json& value, const std::string& where) {
    return named(value, where, kCodes);
  }
};

template <>
struct JsonCodec<cache::CacheSpec> {
  static json write(const cache::CacheSpec& value) { return value.to_string(); }
  static cache::CacheSpec read(const json& value, const std::string& where) {
    return cache::CacheSpec::parse(JsonCodec<std::string>::read(value, where));
  }
};

template <>
struct JsonCodec<format::SaveMode> {
  static json write(format::SaveMode value) { return format::save_mode_name(value); }
  static format::SaveMode read(const json& value, const std::string& where) {
    const auto mode = format::parse_save_mode(JsonCodec<std::string>::read(value, where));
    if (!mode) fail_to_read(where, "the name of a save mode", value);
    return *mode;
  }
};

template <>
struct JsonCodec<format::ReplayMode> {
  static json write(format::ReplayMode value) { return format::replay_mode_name(value); }
  static format::ReplayMode read(const json& value, const std::string& where) {
    const auto mode = format::parse_replay_mode(JsonCodec<std::string>::read(value, where));
    if (!mode) fail_to_read(where, "the name of a replay mode", value);
    return *mode;
  }
};

// Invalid bytes are what the tokenizer would be given, too.
template <>
struct JsonCodec<Prompt> {
  static json write(const Prompt& prompt) {
    Prompt valid = prompt;
    valid.text = valid_utf8(prompt.text);
    return {{"origin", valid_utf8(prompt.origin)},
            {"prompt", valid.to_json()},
            {"cut_to_tokens", prompt.cut_to_tokens}};
  }
  static Prompt read(const json& value, const std::string& where) {
    if (!value.is_object() || value.size() != 3 || !value.contains("prompt") ||
        !value.contains("origin") || !value.contains("cut_to_tokens")) {
      fail_to_read(where, "an object of \"origin\", \"prompt\" and \"cut_to_tokens\"", value);
    }
    Prompt prompt = parse_prompt(value["prompt"],
                                 JsonCodec<std::string>::read(value["origin"], where + ".origin"));
    prompt.cut_to_tokens =
        JsonCodec<std::uint64_t>::read(value["cut_to_tokens"], where + ".cut_to_tokens");
    return prompt;
  }
};

template <>
struct JsonFields<Request> {
  static constexpr std::array kTable = {
      json_field<&Request::config_folder>("config_folder"),
      json_field<&Request::models>("models"),
      json_field<&Request::prompts>("prompts"),
      json_field<&Request::prompts_must_match>("prompts_must_match"),
      json_field<&Request::request_number>("request_number"),
      json_field<&Request::batch_sizes>("batch_sizes"),
      json_field<&Request::max_new_tokens>("max_new_tokens"),
      json_field<&Request::ignore_eos>("ignore_eos"),
      json_field<&Request::device>("device"),
      json_field<&Request::device_label>("device_label"),
      json_field<&Request::cpu_isa>("cpu_isa"),
      json_field<&Request::threads>("threads"),
      json_field<&Request::kv_cache>("kv_cache"),
      json_field<&Request::save>("save"),
      json_field<&Request::save_mode>("save_mode"),
      json_field<&Request::base_dir>("base_dir"),
      json_field<&Request::top_k>("top_k"),
      json_field<&Request::logits_sample>("logits_sample"),
      json_field<&Request::force>("force"),
      json_field<&Request::resume>("resume"),
      json_field<&Request::sync>("sync"),
      json_field<&Request::sync_every_steps>("sync_every_steps"),
      json_field<&Request::from>("from"),
      json_field<&Request::ref_dir>("ref_dir"),
      json_field<&Request::from_batch_size>("from_batch_size"),
      json_field<&Request::replay_shape>("replay_shape"),
      json_field<&Request::parallel_memory_bytes>("parallel_memory_bytes"),
      json_field<&Request::replay_modes>("replay_modes"),
      json_field<&Request::allow_different_weights>("allow_different_weights"),
  };
};

template <>
struct JsonFields<analysis::FlipBounds> {
  static constexpr std::array kTable = {
      json_field<&analysis::FlipBounds::near_tie_ulps>("near_tie_ulps"),
      json_field<&analysis::FlipBounds::noise_z>("noise_z"),
  };
};

template <>
struct JsonFields<WorkerTask> {
  static constexpr std::array kTable = {json_field<&WorkerTask::action>("action"),
                                        json_field<&WorkerTask::request>("request"),
                                        json_field<&WorkerTask::flip_bounds>("flip_bounds")};
};

template <>
struct JsonFields<DeviceDescription> {
  static constexpr std::array kTable = {
      json_field<&DeviceDescription::label>("label"),
      json_field<&DeviceDescription::type>("type"),
      json_field<&DeviceDescription::name>("name"),
      json_field<&DeviceDescription::torch_version>("torch_version"),
      json_field<&DeviceDescription::provenance_json>("provenance_json"),
  };
};

template <>
struct JsonFields<ModelDescription> {
  static constexpr std::array kTable = {
      json_field<&ModelDescription::id>("id"),
      json_field<&ModelDescription::slug>("slug"),
      json_field<&ModelDescription::path>("path"),
      json_field<&ModelDescription::architecture>("architecture"),
      json_field<&ModelDescription::dtype>("dtype"),
      json_field<&ModelDescription::num_layers>("num_layers"),
      json_field<&ModelDescription::weights_sha256>("weights_sha256"),
      json_field<&ModelDescription::config_sha256>("config_sha256"),
      json_field<&ModelDescription::graph_sha256>("graph_sha256"),
  };
};

template <>
struct JsonFields<WorkerMeasurement> {
  static constexpr std::array kTable = {
      json_field<&WorkerMeasurement::figures>("figures"),
      json_field<&WorkerMeasurement::largest_gap_ulps>("largest_gap_ulps"),
      json_field<&WorkerMeasurement::largest_gap_noise>("largest_gap_noise"),
      json_field<&WorkerMeasurement::most_rows>("most_rows"),
      json_field<&WorkerMeasurement::groups>("groups"),
      json_field<&WorkerMeasurement::cache>("cache"),
      json_field<&WorkerMeasurement::device>("device"),
      json_field<&WorkerMeasurement::model>("model"),
  };
};

template <>
struct JsonFields<WorkerError> {
  static constexpr std::array kTable = {json_field<&WorkerError::code>("code"),
                                        json_field<&WorkerError::message>("message")};
};

template <>
struct JsonFields<WorkerAnswer> {
  static constexpr std::array kTable = {json_field<&WorkerAnswer::error>("error"),
                                        json_field<&WorkerAnswer::measurement>("measurement")};
};

namespace {

template <typename Message>
std::string write_message(const Message& message) {
  json document = JsonCodec<Message>::write(message);
  document[kVersionKey] = kWorkerVersion;
  return document.dump() + "\n";
}

template <typename Message>
Message parse_message(std::string_view text, const std::string& subject) {
  json document = parse_json_text(text, subject, /*ignore_comments=*/false);
  const auto version = document.is_object() ? document.find(kVersionKey) : document.end();
  if (version == document.end() || *version != kWorkerVersion) {
    throw_usage(subject + ": expected version " + std::to_string(kWorkerVersion) + ", found " +
                (version == document.end() ? "none" : version->dump()));
  }
  document.erase(version);
  return JsonCodec<Message>::read(document, subject);
}

}  // namespace

std::string write_task(const WorkerTask& task) { return write_message(task); }

std::string write_answer(const WorkerAnswer& answer) { return write_message(answer); }

WorkerTask parse_task(std::string_view text) { return parse_message<WorkerTask>(text, "the task"); }

WorkerAnswer parse_answer(std::string_view text) {
  return parse_message<WorkerAnswer>(text, "the answer");
}

}  // namespace kvtool::run
