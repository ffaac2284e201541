#include "kvtool/format/meta.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <type_traits>

#include "kvtool/base/error.h"

namespace kvtool::format {
namespace {

using nlohmann::json;

// Bounds what a hostile file can make a replay allocate.
constexpr std::uint64_t kMaxRows = 65536;
constexpr std::uint64_t kMaxPositions = std::uint64_t{1} << 31U;

// A member of one group of META under its name there.
template <typename Group, typename Value>
struct Field {
  const char* name;
  std::optional<Value> Group::* member;
};
template <typename Group>
using Text = Field<Group, std::string>;
template <typename Group>
using Number = Field<Group, std::uint64_t>;
template <typename Group>
using Flag = Field<Group, bool>;

constexpr std::array kMetaTexts = {Text<Meta>{"kvtool", &Meta::kvtool},
                                   Text<Meta>{"created_utc", &Meta::created_utc},
                                   Text<Meta>{"cache", &Meta::cache}};
constexpr std::array kPromptTexts = {Text<Meta>{"text", &Meta::prompt_text}};
constexpr std::array kModelTexts = {
    Text<MetaModel>{"id", &MetaModel::id},
    Text<MetaModel>{"slug", &MetaModel::slug},
    Text<MetaModel>{"architecture", &MetaModel::architecture},
    Text<MetaModel>{"dtype", &MetaModel::dtype},
    Text<MetaModel>{"weights_sha256", &MetaModel::weights_sha256},
    Text<MetaModel>{"config_sha256", &MetaModel::config_sha256},
    Text<MetaModel>{"graph_sha256", &MetaModel::graph_sha256},
    Text<MetaModel>{"exporter_version", &MetaModel::exporter_version},
    Text<MetaModel>{"torch_version", &MetaModel::torch_version},
    Text<MetaModel>{"transformers_version", &MetaModel::transformers_version},
    Text<MetaModel>{"quantized_from", &MetaModel::quantized_from}};
constexpr std::array kModelNumbers = {
    Number<MetaModel>{"max_positions", &MetaModel::max_positions}};
constexpr std::array kDeviceTexts = {Text<MetaDevice>{"label", &MetaDevice::label},
                                     Text<MetaDevice>{"type", &MetaDevice::type},
                                     Text<MetaDevice>{"name", &MetaDevice::name}};
constexpr std::array kRunTexts = {Text<MetaRun>{"batch_id", &MetaRun::batch_id}};
constexpr std::array kRunNumbers = {Number<MetaRun>{"batch_size", &MetaRun::batch_size},
                                    Number<MetaRun>{"batch_index", &MetaRun::batch_index},
                                    Number<MetaRun>{"row", &MetaRun::row},
                                    Number<MetaRun>{"rows", &MetaRun::rows},
                                    Number<MetaRun>{"input_index", &MetaRun::input_index},
                                    Number<MetaRun>{"padded_length", &MetaRun::padded_length},
                                    Number<MetaRun>{"padding", &MetaRun::padding},
                                    Number<MetaRun>{"cache_capacity", &MetaRun::cache_capacity},
                                    Number<MetaRun>{"max_new_tokens", &MetaRun::max_new_tokens}};
constexpr std::array kRunFlags = {Flag<MetaRun>{"ignore_eos", &MetaRun::ignore_eos}};
constexpr std::array kReplayTexts = {Text<MetaReplayOf>{"uuid", &MetaReplayOf::uuid},
                                     Text<MetaReplayOf>{"path", &MetaReplayOf::path},
                                     Text<MetaReplayOf>{"device", &MetaReplayOf::device},
                                     Text<MetaReplayOf>{"mode", &MetaReplayOf::mode}};
constexpr std::array kReplayFlags = {Flag<MetaReplayOf>{"parallel", &MetaReplayOf::parallel}};

template <typename Value>
bool holds(const json& value) {
  if constexpr (std::is_same_v<Value, bool>) return value.is_boolean();
  if constexpr (std::is_same_v<Value, std::string>) return value.is_string();
  return value.is_number_unsigned();
}

// Called with every field of the group.
template <typename Visit>
void visit_fields(const Meta*, Visit visit) {
  for (const auto& field : kMetaTexts) visit(field);
}
template <typename Visit>
void visit_fields(const MetaModel*, Visit visit) {
  for (const auto& field : kModelTexts) visit(field);
  for (const auto& field : kModelNumbers) visit(field);
}
template <typename Visit>
void visit_fields(const MetaDevice*, Visit visit) {
  for (const auto& field : kDeviceTexts) visit(field);
}
template <typename Visit>
void visit_fields(const MetaRun*, Visit visit) {
  for (const auto& field : kRunTexts) visit(field);
  for (const auto& field : kRunNumbers) visit(field);
  for (const auto& field : kRunFlags) visit(field);
}
template <typename Visit>
void visit_fields(const MetaReplayOf*, Visit visit) {
  for (const auto& field : kReplayTexts) visit(field);
  for (const auto& field : kReplayFlags) visit(field);
}

template <typename Group, typename Value>
void read_field(const json& object, const Field<Group, Value>& field, Group& group) {
  if (!object.is_object()) return;
  const auto found = object.find(field.name);
  if (found != object.end() && holds<Value>(*found)) {
    group.*field.member = found->template get<Value>();
  }
}

template <typename Group, typename Value>
void write_field(const Group& group, const Field<Group, Value>& field, json& object) {
  const std::optional<Value>& value = group.*field.member;
  if (value) {
    if (!object.is_object()) object = json::object();
    object[field.name] = *value;
  } else if (object.is_object() && object.contains(field.name) &&
             holds<Value>(object[field.name])) {
    object.erase(field.name);
  }
}

template <typename Group>
void read_group(const json& object, Group& group) {
  visit_fields(&group, [&](const auto& field) { read_field(object, field, group); });
}

template <typename Group>
void write_group(const Group& group, json& object) {
  visit_fields(&group, [&](const auto& field) { write_field(group, field, object); });
}

template <typename Group>
void read_optional(const json& meta, const char* name, std::optional<Group>& group) {
  if (meta.contains(name)) read_group(meta[name], group.emplace());
}

template <typename Group>
void write_optional(const std::optional<Group>& group, const char* name, json& meta) {
  if (!group) {
    meta.erase(name);
    return;
  }
  json object = meta.value(name, json());
  write_group(*group, object);
  meta[name] = std::move(object);
}

// Does not make an empty object of a member that is not there.
template <typename Write>
void write_member(json& meta, const char* name, Write write) {
  json object = meta.value(name, json());
  write(object);
  if (!object.is_null() || meta.contains(name)) meta[name] = std::move(object);
}

const json* find(const json& meta, std::string_view path) {
  const json* node = &meta;
  while (!path.empty()) {
    const std::string key(path.substr(0, path.find('.')));
    path.remove_prefix(std::min(path.size(), key.size() + 1));
    if (!node->is_object()) return nullptr;
    const auto member = node->find(key);
    if (member == node->end()) return nullptr;
    node = &*member;
  }
  return node;
}

std::string text_of(const json& scalar) {
  return scalar.is_string() ? scalar.get<std::string>()
                            : scalar.dump(-1, ' ', false, json::error_handler_t::replace);
}

bool is_setting(const json& value) { return value.is_primitive() && !value.is_null(); }

void check(const RunMeta& run, std::uint64_t prompt_length, const std::string& subject) {
  if (run.rows == 0 || run.rows > kMaxRows || run.row >= run.rows) {
    throw_corrupt(subject + ": META.run says row " + std::to_string(run.row) + " of " +
                  std::to_string(run.rows));
  }
  if (run.padded_length < prompt_length || run.padded_length > run.cache_capacity ||
      run.cache_capacity > kMaxPositions) {
    throw_corrupt(subject + ": META.run says " + std::to_string(run.padded_length) +
                  " padded positions in a cache of " + std::to_string(run.cache_capacity) +
                  " for a prompt of " + std::to_string(prompt_length));
  }
  if (run.input_index < run.row) {
    throw_corrupt(subject + ": META.run says input " + std::to_string(run.input_index) +
                  " in row " + std::to_string(run.row));
  }
}

// The numbers that must be there: `padding` follows from others.
struct RunNumber {
  const char* name;
  std::optional<std::uint64_t> MetaRun::* from;
  std::uint64_t RunMeta::* to;
};
constexpr std::array kNeededNumbers = {
    RunNumber{"batch_size", &MetaRun::batch_size, &RunMeta::batch_size},
    RunNumber{"batch_index", &MetaRun::batch_index, &RunMeta::batch_index},
    RunNumber{"row", &MetaRun::row, &RunMeta::row},
    RunNumber{"rows", &MetaRun::rows, &RunMeta::rows},
    RunNumber{"input_index", &MetaRun::input_index, &RunMeta::input_index},
    RunNumber{"padded_length", &MetaRun::padded_length, &RunMeta::padded_length},
    RunNumber{"cache_capacity", &MetaRun::cache_capacity, &RunMeta::cache_capacity},
    RunNumber{"max_new_tokens", &MetaRun::max_new_tokens, &RunMeta::max_new_tokens}};

}  // namespace

Meta Meta::parse(const json& meta) {
  Meta result;
  if (!meta.is_object()) return result;
  read_group(meta, result);
  read_group(meta.value("model", json()), result.model);
  read_group(meta.value("device", json()), result.device);
  read_optional(meta, "run", result.run);
  for (const auto& field : kPromptTexts) read_field(meta.value("prompt", json()), field, result);
  read_optional(meta, "replay_of", result.replay_of);
  result.parsed_ = std::make_shared<const json>(meta);
  return result;
}

json Meta::to_json() const {
  json meta = parsed_ ? *parsed_ : json::object();
  write_group(*this, meta);
  write_member(meta, "model", [&](json& object) { write_group(model, object); });
  write_member(meta, "device", [&](json& object) { write_group(device, object); });
  write_optional(run, "run", meta);
  write_member(meta, "prompt", [&](json& object) {
    for (const auto& field : kPromptTexts) write_field(*this, field, object);
  });
  write_optional(replay_of, "replay_of", meta);
  return meta;
}

std::vector<MetaSetting> Meta::provenance() const {
  std::vector<MetaSetting> settings;
  const json* object = parsed_ ? find(*parsed_, "device.provenance") : nullptr;
  if (object == nullptr || !object->is_object()) return settings;
  for (const auto& [name, value] : object->items()) {
    if (is_setting(value)) settings.push_back({name, text_of(value)});
  }
  return settings;
}

std::optional<std::string> Meta::setting(std::string_view name) const {
  for (MetaSetting& each : provenance()) {
    if (each.name == name) return std::move(each.text);
  }
  return std::nullopt;
}

std::optional<RunMeta> checked_run(const Meta& meta, std::uint64_t prompt_length,
                                   const std::string& subject) {
  if (!meta.run) return std::nullopt;
  if (!meta.to_json()["run"].is_object()) throw_corrupt(subject + ": META.run is not an object");
  if (!meta.run->batch_id) {
    throw_corrupt(subject + ": META.run.batch_id is missing or not a string");
  }
  RunMeta run;
  run.batch_id = *meta.run->batch_id;
  for (const RunNumber& number : kNeededNumbers) {
    const std::optional<std::uint64_t>& value = *meta.run.*number.from;
    if (!value) {
      throw_corrupt(subject + ": META.run." + number.name + " is missing or not a number");
    }
    run.*number.to = *value;
  }
  run.ignore_eos = meta.run->ignore_eos.value_or(false);
  check(run, prompt_length, subject);
  run.padding = run.padded_length - prompt_length;
  return run;
}

MetaRun to_meta(const RunMeta& run) {
  MetaRun meta;
  meta.batch_id = run.batch_id;
  for (const RunNumber& number : kNeededNumbers) meta.*number.from = run.*number.to;
  meta.padding = run.padding;
  meta.ignore_eos = run.ignore_eos;
  return meta;
}

std::optional<std::string> text_at(const json& meta, std::string_view path) {
  const json* value = find(meta, path);
  if (value == nullptr || !is_setting(*value)) return std::nullopt;
  return text_of(*value);
}

}  // namespace kvtool::format
