// A recording of any content: opened and read whole, verified, and recovered with all
// that can be salvaged. What recover writes must open again.
#include <cstdio>
#include <cstdlib>

#include "format/memory_file_system.h"
#include "kvtool/format/reader.h"
#include "kvtool/format/recover.h"
#include "kvtool/format/verify.h"
#include "memory_budget.h"
#include "mutate.h"
#include "read_everything.h"

namespace {

using namespace kvtool;

void read(format::MemoryFileSystem& files) {
  try {
    fuzz::read_everything(format::Recording::open("x.kvc", {.file_system = &files}));
  } catch (const Error&) {
  }
}

void verify(format::MemoryFileSystem& files) {
  const auto verdicts = format::verify_files({"x.kvc"}, {.file_system = &files, .threads = 1});
  for (const format::Damage& damage : verdicts.front().damages) {
    static_cast<void>(format::describe_place(damage));
  }
}

[[noreturn]] void fail(const Error& error) {
  std::fprintf(stderr, "recovered, but: %s\n", error.what());
  std::abort();
}

void recover(format::MemoryFileSystem& files) {
  format::RecoverResult result;
  try {
    result = format::recover_recording("x.kvc", "y.kvc", {.file_system = &files, .salvage = true});
  } catch (const Error& error) {
    // It proves what it writes, so this would be its own mistake.
    if (error.code() == ErrorCode::kEnvironment) fail(error);
    return;
  }
  if (!result.written) return;
  try {
    format::Recording::open("y.kvc", {.file_system = &files}).verify();
  } catch (const Error& error) {
    fail(error);
  }
}

}  // namespace

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size,
                                               std::size_t max_size, unsigned seed) {
  return kvtool::fuzz::mutate_recording(data, size, max_size, seed);
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto* bytes = reinterpret_cast<const std::byte*>(data);
  // The file, what is recovered of it, what is salvaged, and K and V that were read.
  const kvtool::fuzz::MemoryBudget budget(size, 6);
  kvtool::format::MemoryFileSystem files;
  files.put("x.kvc", {bytes, bytes + size});
  read(files);
  verify(files);
  recover(files);
  return 0;
}
