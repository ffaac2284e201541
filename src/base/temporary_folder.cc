#include "kvtool/base/temporary_folder.h"

#include <stdlib.h>

#include <cerrno>
#include <cstdlib>
#include <string>
#include <system_error>

#include "kvtool/base/error.h"
#include "kvtool/base/file.h"

namespace kvtool {

TemporaryFolder::TemporaryFolder(std::string_view purpose) {
  const std::string name = "kvtool_" + std::string(purpose) + "_XXXXXX";
  // std::filesystem::temp_directory_path() would refuse a missing folder in words of its own.
  const char* chosen = std::getenv("TMPDIR");
  const std::filesystem::path parent = chosen != nullptr && *chosen != '\0' ? chosen : "/tmp";
  std::string pattern = (parent / name).string();
  if (::mkdtemp(pattern.data()) == nullptr) {
    const int error = errno;
    throw_environment("no temporary folder can be made in " + shortened_path(parent) + ": " +
                      std::generic_category().message(error) +
                      ": set TMPDIR to a folder that may be written to");
  }
  path_ = pattern;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace kvtool
