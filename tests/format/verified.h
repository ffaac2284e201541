// Verification of bytes, for the tests of damage.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "kvtool/format/verify.h"
#include "memory_file_system.h"

namespace kvtool::format {

inline FileVerdict verify(Bytes bytes, unsigned threads = 1) {
  MemoryFileSystem files;
  files.put("x.kvc", std::move(bytes));
  return verify_files({"x.kvc"}, {.file_system = &files, .threads = threads}).front();
}

inline std::vector<std::string> places(const FileVerdict& verdict) {
  std::vector<std::string> texts;
  for (const Damage& damage : verdict.damages) texts.push_back(describe_place(damage));
  return texts;
}

}  // namespace kvtool::format
