// What the planning of a replay knows of one recording.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "kvtool/format/meta.h"
#include "kvtool/format/reader.h"
#include "open_recordings.h"

namespace kvtool::run {

struct ReferenceEntry {
  std::filesystem::path path;
  std::shared_ptr<const format::Recording> recording;  // shared by all that ask for `path`
  std::uint64_t batch_size = 1;
  std::uint64_t input_index = 0;
  std::uint64_t prompt_length = 0;
  std::uint64_t num_steps = 0;
  std::uint32_t top_k = 0;
  std::uint32_t logits_sample = 0;
  bool has_prefill = true;
  std::optional<format::RunMeta> run;
  std::string model_id;
  std::string model_slug;
  std::string device_label;
  std::string kv_cache = format::kUnnamedCache;  // spec of the cache that made it, not checked
  nlohmann::json prompt_meta;                    // META.prompt, or null
  std::optional<std::string> prompt_text;        // of it
  std::vector<std::int32_t> prompt_ids;
  bool selected = true;  // false: present only because others ran in its batch
};

// Errors as Recording::open(); kCorrupt for a META that contradicts itself.
[[nodiscard]] ReferenceEntry read_reference_entry(const std::filesystem::path& path,
                                                  OpenRecordings& recordings);

}  // namespace kvtool::run
