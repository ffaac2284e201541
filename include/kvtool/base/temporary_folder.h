// A folder for files that nobody needs later.
#pragma once

#include <filesystem>
#include <string_view>

namespace kvtool {

// Empty at first, and gone with everything in it at the end, whatever the end is.
class TemporaryFolder {
 public:
  // Named kvtool_PURPOSE_ and six random characters, in $TMPDIR or /tmp. Error kEnvironment
  // when it cannot be made.
  explicit TemporaryFolder(std::string_view purpose);
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace kvtool
