// META with types: where a recording comes from. docs/format.md, "META and SUMMARY".
//
// META is advisory and may come from anywhere. parse() never throws: a member that is missing
// or of another type is empty here. What this header does not know is kept, so that
// to_json() of what parse() gave is the same object again, member for member.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace kvtool::format {

struct MetaModel {
  std::optional<std::string> id = {};
  std::optional<std::string> slug = {};
  std::optional<std::string> architecture = {};
  std::optional<std::string> dtype = {};
  std::optional<std::string> weights_sha256 = {};
  std::optional<std::string> config_sha256 = {};
  std::optional<std::string> graph_sha256 = {};
  std::optional<std::uint64_t> max_positions = {};
  std::optional<std::string> exporter_version = {};
  std::optional<std::string> torch_version = {};         // that exported the model
  std::optional<std::string> transformers_version = {};  // likewise
  std::optional<std::string> quantized_from = {};
};

struct MetaDevice {
  std::optional<std::string> label = {};
  std::optional<std::string> type = {};
  std::optional<std::string> name = {};
};

// Which batch a row was part of, and that batch's shape.
struct MetaRun {
  std::optional<std::string> batch_id = {};
  std::optional<std::uint64_t> batch_size = {};
  std::optional<std::uint64_t> batch_index = {};
  std::optional<std::uint64_t> row = {};
  std::optional<std::uint64_t> rows = {};
  std::optional<std::uint64_t> input_index = {};
  std::optional<std::uint64_t> padded_length = {};
  std::optional<std::uint64_t> padding = {};
  std::optional<std::uint64_t> cache_capacity = {};
  std::optional<std::uint64_t> max_new_tokens = {};
  std::optional<bool> ignore_eos = {};
};

struct MetaReplayOf {
  std::optional<std::string> uuid = {};
  std::optional<std::string> path = {};
  std::optional<std::string> device = {};
  std::optional<std::string> mode = {};
  std::optional<bool> parallel = {};
};

// A setting of the device under its own name, a string as it is, else as JSON.
struct MetaSetting {
  std::string name;
  std::string text;
};

// The cache of recordings whose META names none: they are from before there was a choice.
inline constexpr const char* kUnnamedCache = "contiguous";

struct Meta {
  std::optional<std::string> kvtool;  // version of who wrote it
  std::optional<std::string> created_utc;
  std::optional<std::string> cache;  // canonical spec of the cache that made the rows
  MetaModel model;
  MetaDevice device;
  std::optional<MetaRun> run;              // as long as META has a member of this name
  std::optional<std::string> prompt_text;  // of `prompt`
  std::optional<MetaReplayOf> replay_of;   // as `run`

  // Everything that is no object reads as an empty one.
  [[nodiscard]] static Meta parse(const nlohmann::json& meta);
  // What was parsed, changed where the members above were changed since: a member is written
  // when it has a value, and removed when it lost the one that it was parsed with.
  [[nodiscard]] nlohmann::json to_json() const;

  [[nodiscard]] std::string cache_or_unnamed() const { return cache.value_or(kUnnamedCache); }
  // device.provenance: its scalars by name, without null.
  [[nodiscard]] std::vector<MetaSetting> provenance() const;
  [[nodiscard]] std::optional<std::string> setting(std::string_view name) const;

 private:
  std::shared_ptr<const nlohmann::json> parsed_;
};

// MetaRun of which everything is there and fits: what a replay needs to form the batch again.
struct RunMeta {
  std::string batch_id;          // UUID, the same in all rows of one batch
  std::uint64_t batch_size = 1;  // nominal; the last batch of a run may have fewer rows
  std::uint64_t batch_index = 0;
  std::uint64_t row = 0;
  std::uint64_t rows = 1;
  std::uint64_t input_index = 0;
  std::uint64_t padded_length = 0;
  std::uint64_t padding = 0;  // positions of left padding of this row
  std::uint64_t cache_capacity = 0;
  std::uint64_t max_new_tokens = 0;
  bool ignore_eos = false;

  friend bool operator==(const RunMeta&, const RunMeta&) = default;
};

// Empty when META has no "run". Error kCorrupt naming `subject` when it has one
// that cannot be: missing or mistyped members, row >= rows, padding that does not add up.
[[nodiscard]] std::optional<RunMeta> checked_run(const Meta& meta, std::uint64_t prompt_length,
                                                 const std::string& subject);
[[nodiscard]] MetaRun to_meta(const RunMeta& run);

// The scalar at a path with dots ("device.provenance.threads") as text: a string as it is, else
// as JSON. Nothing for what is missing, null or no scalar. For tables whose rows name paths.
[[nodiscard]] std::optional<std::string> text_at(const nlohmann::json& meta, std::string_view path);

}  // namespace kvtool::format
