#include "kvtool/format/safetensors.h"
#include "kvtool/base/error.h"
namespace kvtool::format {
void write_safetensors(const Recording&, std::int64_t, const std::filesystem::path&) {
  throw_usage("not yet");
}
}  // namespace kvtool::format
