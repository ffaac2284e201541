#include "kvtool/format/kernel_variables.h"

#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

namespace kvtool::format {
namespace {

using Variables = std::map<std::string, std::string>;

Variables recorded(std::vector<const char*> environment) {
  environment.push_back(nullptr);
  return recorded_variables(environment.data());
}

TEST(KernelVariables, EveryRowHasAReasonAndASourceAndStandsOnce) {
  std::set<std::string_view> names;
  for (const KernelVariable& row : kKernelVariables) {
    EXPECT_FALSE(row.why.empty()) << row.name;
    EXPECT_FALSE(row.source.empty()) << row.name;
    EXPECT_TRUE(names.insert(row.name).second) << row.name;
  }
}

// A row behind its own family would never be found.
TEST(KernelVariables, EveryRowIsFoundByItsName) {
  for (const KernelVariable& row : kKernelVariables) {
    const bool is_family = row.name.ends_with('*');
    const std::string name(row.name.substr(0, row.name.size() - (is_family ? 1 : 0)));
    EXPECT_EQ(find_kernel_variable(name + (is_family ? "_X" : "")), &row) << row.name;
  }
}

TEST(KernelVariables, RecordsWhatChangesKernels) {
  for (const std::string name :
       {"DNNL_MAX_CPU_ISA", "ONEDNN_MAX_CPU_ISA", "DNNL_DEFAULT_FPMATH_MODE",
        "ONEDNN_DEFAULT_FPMATH_MODE", "ONEDNN_SOMETHING_NEW", "MKL_CBWR", "MKL_SOMETHING_NEW",
        "OPENBLAS_CORETYPE", "CUBLAS_WORKSPACE_CONFIG", "CUBLASLT_WORKSPACE_SIZE",
        "NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "TORCH_BLAS_PREFER_CUBLASLT",
        "TORCH_MKLDNN_MATMUL_MIN_DIM", "OMP_DYNAMIC", "OMP_THREAD_LIMIT",
        "KMP_DETERMINISTIC_REDUCTION", "GLIBC_TUNABLES"}) {
    const std::string entry = name + "=1";
    EXPECT_EQ(recorded({entry.c_str()}), (Variables{{name, "1"}}));
  }
}

TEST(KernelVariables, RecordsNothingElse) {
  for (const std::string name :
       {"HOME", "PATH", "SECRET_TOKEN", "ONEDNN_VERBOSE", "DNNL_VERBOSE", "MKL_VERBOSE",
        "MKL_NUM_THREADS", "OMP_NUM_THREADS", "OMP_DISPLAY_ENV", "ATEN_CPU_CAPABILITY",
        "CUBLAS_VERSION", "CUDA_VISIBLE_DEVICES", "TORCH_HOME", "PYTORCH_CUDA_ALLOC_CONF"}) {
    const std::string entry = name + "=1";
    EXPECT_TRUE(recorded({entry.c_str()}).empty()) << name;
  }
}

TEST(KernelVariables, AnEmptyVariableIsNone) {
  EXPECT_TRUE(recorded({"MKL_CBWR=", "ONEDNN_MAX_CPU_ISA", ""}).empty());
  EXPECT_EQ(recorded({"MKL_CBWR=A=B"}), (Variables{{"MKL_CBWR", "A=B"}}));
}

TEST(KernelVariables, OneDnnsOlderSpellingIsTheSameVariable) {
  EXPECT_EQ(canonical_variable("DNNL_MAX_CPU_ISA"), "ONEDNN_MAX_CPU_ISA");
  EXPECT_EQ(canonical_variable("MKL_CBWR"), "MKL_CBWR");
  EXPECT_EQ(find_kernel_variable("DNNL_MAX_CPU_ISA"), find_kernel_variable("ONEDNN_MAX_CPU_ISA"));
}

}  // namespace
}  // namespace kvtool::format
