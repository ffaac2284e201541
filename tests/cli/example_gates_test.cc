#include <gtest/gtest.h>

#include <filesystem>

#include "kvtool/base/file.h"
#include "kvtool/run/load_gate.h"

namespace kvtool::cli {
namespace {

TEST(ExampleGates, AreGatesAsTheyStand) {
  const std::filesystem::path folder = std::filesystem::path(KVTOOL_CONFIGS_DIR) / "gates";
  std::size_t gates = 0;
  for (const std::filesystem::path& path : list_folder(folder)) {
    EXPECT_NO_THROW(static_cast<void>(run::load_gate(path.string()))) << path;
    ++gates;
  }
  EXPECT_GE(gates, 2U);
}

}  // namespace
}  // namespace kvtool::cli
