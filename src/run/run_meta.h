// The META record that a run writes into each recording, and the part of it
// that a replay needs to form the same batch again.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "kvtool/engine/api.h"

namespace kvtool::run {

// META.run: which batch a row was part of, and that batch's shape.
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

[[nodiscard]] nlohmann::json to_json(const RunMeta& run);

// Empty when META has no "run". Error kCorrupt naming `subject` when it has one
// that cannot be: missing or mistyped members, row >= rows, padding that does not add up.
[[nodiscard]] std::optional<RunMeta> parse_run_meta(const nlohmann::json& meta,
                                                    std::uint64_t prompt_length,
                                                    const std::string& subject);

struct MetaParts {
  std::string kvtool_version;
  std::string created_utc;
  const engine::ModelInfo* model = nullptr;
  const engine::DeviceInfo* device = nullptr;
  std::string device_label;
  RunMeta run;
  nlohmann::json prompt;  // {"text": ..., "messages": ...}
};
[[nodiscard]] nlohmann::json make_meta(const MetaParts& parts);

// meta["a"]["b"] as a string; empty where there is none. META is advisory and
// may come from anywhere.
[[nodiscard]] std::string meta_string(const nlohmann::json& meta, const char* group,
                                      const char* key);

}  // namespace kvtool::run
