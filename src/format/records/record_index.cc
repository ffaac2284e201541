#include "record_index.h"

#include "kvtool/base/error.h"

namespace kvtool::format {

std::string describe_progress(const RecordIndex& index, const RecordingHeader& header) {
  if (index.prompt == 0) return "nothing";
  if (index.trailer.prefill_end == 0) {
    return "the prompt, but only " + std::to_string(index.num_prefills) + " of " +
           std::to_string(header.geometry.num_layers()) + " layers of the prefill";
  }
  return "the prefill and " + std::to_string(index.trailer.num_steps) + " whole steps";
}

void throw_no_prompt(const std::filesystem::path& path, bool has_meta) {
  throw_corrupt(path.string() + ": the file ends within its " + (has_meta ? "PROMPT" : "META") +
                ": nothing can be read");
}

}  // namespace kvtool::format
