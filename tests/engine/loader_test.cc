#include "kvtool/engine/loader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "kvtool/base/error.h"

namespace kvtool::engine {
namespace {

using testing::HasSubstr;

std::string load_message() {
  try {
    (void)load_engine({});
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kEnvironment);
    return error.what();
  }
  return "loaded";
}

// The test binary lies in build/tests, where there is no engine.
TEST(EngineLoader, MissingLibraryNamesTheTorchItWasBuiltFor) {
  unsetenv("KVTOOL_ENGINE_LIBRARY");
  EXPECT_THAT(load_message(), HasSubstr("the engine library is missing"));
  EXPECT_THAT(load_message(), HasSubstr("torch " KVTOOL_TORCH_VERSION));
}

TEST(EngineLoader, NamesAWrongOverride) {
  setenv("KVTOOL_ENGINE_LIBRARY", "/nowhere/engine.so", 1);
  EXPECT_THAT(load_message(), HasSubstr("/nowhere/engine.so, which does not exist"));
}

TEST(EngineLoader, RefusesALibraryThatIsNoEngine) {
  setenv("KVTOOL_ENGINE_LIBRARY", "/lib/x86_64-linux-gnu/libm.so.6", 1);
  EXPECT_THAT(load_message(), HasSubstr("is no kvtool engine"));
}

TEST(EngineLoader, RefusesAFileThatIsNoLibrary) {
  const std::string path = testing::TempDir() + "/not_a_library.so";
  std::ofstream(path) << "hello";
  setenv("KVTOOL_ENGINE_LIBRARY", path.c_str(), 1);
  EXPECT_THAT(load_message(), HasSubstr("cannot be loaded"));
}

TEST(CpuIsa, SetsEveryLibrarysLimit) {
  set_cpu_isa("avx2");
  EXPECT_STREQ(std::getenv("ONEDNN_MAX_CPU_ISA"), "AVX2");
  EXPECT_STREQ(std::getenv("ATEN_CPU_CAPABILITY"), "avx2");
  EXPECT_STREQ(std::getenv("MKL_ENABLE_INSTRUCTIONS"), "AVX2");
}

TEST(CpuIsa, UnknownNameListsTheKnownOnes) {
  try {
    set_cpu_isa("avx3");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUsage);
    EXPECT_THAT(error.what(), HasSubstr("auto, sse41, avx2, avx512, avx512_bf16"));
  }
}

}  // namespace
}  // namespace kvtool::engine
