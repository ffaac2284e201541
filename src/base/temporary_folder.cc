#include "kvtool/base/temporary_folder.h"

#include <stdlib.h>

#include <cerrno>
#include <string>
#include <system_error>

#include "kvtool/base/error.h"

namespace kvtool {

TemporaryFolder::TemporaryFolder(std::string_view purpose) {
  const std::string name = "kvtool_" + std::string(purpose) + "_XXXXXX";
  std::string pattern = (std::filesystem::temp_directory_path() / name).string();
  if (::mkdtemp(pattern.data()) == nullptr) {
    throw_environment("no temporary folder can be made as " + pattern + ": " +
                      std::generic_category().message(errno));
  }
  path_ = pattern;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace kvtool
