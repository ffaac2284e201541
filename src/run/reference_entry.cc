#include "reference_entry.h"

#include "kvtool/format/reader.h"
#include "kvtool/run/paths.h"

namespace kvtool::run {

namespace fs = std::filesystem;

ReferenceEntry read_reference_entry(const fs::path& path) {
  const format::Recording recording = format::Recording::open(path);
  ReferenceEntry entry;
  entry.path = path;
  entry.prompt_length = recording.header().prompt_length;
  entry.num_steps = recording.num_steps();
  entry.has_prefill = recording.has_prefill();
  entry.run = parse_run_meta(recording.meta(), entry.prompt_length, path.string());
  entry.model_id = meta_string(recording.meta(), "model", "id");
  entry.model_slug = meta_string(recording.meta(), "model", "slug");
  entry.device_label = meta_string(recording.meta(), "device", "label");
  if (recording.meta().is_object()) {
    entry.prompt_meta = recording.meta().value("prompt", nlohmann::json());
  }
  entry.prompt_ids.assign(recording.prompt().begin(), recording.prompt().end());
  if (const auto name = parse_recording_file_name(path.filename().string())) {
    entry.batch_size = name->batch_size;
    entry.input_index = name->input_index;
  } else if (entry.run) {
    entry.batch_size = entry.run->batch_size;
    entry.input_index = entry.run->input_index;
  }
  return entry;
}

}  // namespace kvtool::run
