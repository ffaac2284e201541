// A packed recording of any content: opened and read whole, and unpacked. What is
// unpacked must pack again.
#include <cstdio>
#include <cstdlib>

#include "format/memory_file_system.h"
#include "format/packed/packed_file.h"
#include "kvtool/format/pack.h"
#include "kvtool/format/reader.h"
#include "memory_budget.h"
#include "mutate.h"
#include "read_everything.h"

namespace {

using namespace kvtool;

template <typename Use>
void attempt(Use use) {
  try {
    use();
  } catch (const Error&) {
  }
}

}  // namespace

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size,
                                               std::size_t max_size, unsigned seed) {
  return kvtool::fuzz::mutate_recording(data, size, max_size, seed);
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto* bytes = reinterpret_cast<const std::byte*>(data);
  format::MemoryFileSystem files;
  files.put("x.kvc", {bytes, bytes + size});
  std::uint64_t unpacked_bytes = 0;
  attempt([&] {
    const fuzz::MemoryBudget budget(size, 1);
    const auto opened = format::open_recording_file(files, "x.kvc");
    unpacked_bytes = opened.file->size();
    // What unpacking stores, in pieces as small as a reader may ask for.
    std::vector<std::byte> part(4096);
    for (std::uint64_t at = 0; at < unpacked_bytes && at < (1u << 20); at += part.size()) {
      static_cast<void>(opened.file->read(at, part));
    }
    if (opened.packed != nullptr) opened.packed->verify();
  });
  // What follows takes time and memory in proportion to it.
  if (unpacked_bytes > (16u << 20)) return 0;
  const fuzz::MemoryBudget budget(size + unpacked_bytes, 6);
  attempt(
      [&] { fuzz::read_everything(format::Recording::open("x.kvc", {.file_system = &files})); });
  attempt([&] {
    format::unpack_recording("x.kvc", {.file_system = &files, .output = "y.kvc"});
    format::pack_recording("y.kvc", {.file_system = &files});
  });
  return 0;
}
