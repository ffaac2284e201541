// What `kvtool pack` and `unpack` did, on the console.
#include "console/console_page.h"
#include "wording.h"

namespace kvtool::report {
namespace {

// In raw bytes, whichever way they went.
std::string speed(std::uint64_t original_bytes, double seconds) {
  if (!(seconds > 0.0)) return "n/a";
  return fmt::format("{:.0f} MB/s", static_cast<double>(original_bytes) / 1e6 / seconds);
}

std::string sizes(std::uint64_t original, std::uint64_t packed, bool unpacked) {
  return fmt::format("{} -> {}", megabytes(unpacked ? packed : original),
                     megabytes(unpacked ? original : packed));
}

}  // namespace

void show_packing(ConsolePage& page, const run::PackingResult& result) {
  std::uint64_t original = 0;
  std::uint64_t packed = 0;
  std::size_t done = 0;
  std::size_t failed = 0;
  for (const run::PackedRecording& recording : result.recordings) {
    if (!recording.error.empty()) {
      ++failed;
      page.line("FAILED      {}", one_line(recording.path));
      continue;
    }
    if (!recording.note.empty()) {
      page.line("unchanged   {}: {}", one_line(recording.path), one_line(recording.note));
      continue;
    }
    ++done;
    original += recording.original_bytes;
    packed += recording.packed_bytes;
    if (page.options().quiet) continue;
    page.line("{}, {:>9}  {}",
              sizes(recording.original_bytes, recording.packed_bytes, result.unpacked),
              speed(recording.original_bytes, recording.seconds), one_line(recording.path));
  }
  const char* verb = result.unpacked ? "Unpacked" : "Packed";
  if (done == 0) {
    page.line("{} {}", verb, counted(done, "recording"));
  } else {
    page.line("{} {}: {}, packed is {}; {} with {}", verb, counted(done, "recording"),
              sizes(original, packed, result.unpacked), packing_ratio(packed, original),
              speed(original, result.wall_seconds), counted(result.threads, "thread"));
  }
  if (failed > 0) page.line("{} failed", failed);
}

}  // namespace kvtool::report
