#include "reference_entry.h"

#include "kvtool/run/paths.h"

namespace kvtool::run {

namespace fs = std::filesystem;

ReferenceEntry read_reference_entry(const fs::path& path, OpenRecordings& recordings) {
  ReferenceEntry entry;
  entry.path = path;
  entry.recording = recordings.open(path);
  const format::Recording& recording = *entry.recording;
  entry.prompt_length = recording.header().prompt_length;
  entry.num_steps = recording.num_steps();
  entry.top_k = recording.header().top_k;
  entry.logits_sample = recording.header().logits_sample;
  entry.has_prefill = recording.has_prefill();
  const format::Meta meta = format::Meta::parse(recording.meta());
  entry.run = format::checked_run(meta, entry.prompt_length, path.string());
  entry.model_id = meta.model.id.value_or("");
  entry.model_slug = meta.model.slug.value_or("");
  entry.device_label = meta.device.label.value_or("");
  entry.kv_cache = meta.cache_or_unnamed();
  entry.prompt_text = meta.prompt_text;
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
