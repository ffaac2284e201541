// The environment variables that change what a device computes, or by how many threads: those
// that META records (docs/format.md, "device"), with the reason and its source. What a library
// reads decides which kernel runs, and so how sums round; two runs that differ in one of them
// are two devices.
//
// A row whose name ends in '*' stands for every variable that begins like it and has no row of
// its own: a library's next variable is recorded before anybody has read of it.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>

namespace kvtool::format {

enum class VariableEffect : std::uint8_t {
  kNone,  // of a family, and known to change no number: not recorded
  kCpu,   // of the host CPU: nothing to a GPU's results
  kCuda,  // a CPU has no such thing
  kAny,
};

struct KernelVariable {
  std::string_view name;
  VariableEffect effect;
  std::string_view why;     // what it can change; of kNone: why it cannot
  std::string_view source;  // where that is said
};

namespace source {
inline constexpr std::string_view kOneDnn = "oneDNN developer guide, run-time controls";
inline constexpr std::string_view kOneDnnIsa = "oneDNN developer guide, CPU dispatcher control";
inline constexpr std::string_view kMkl = "Intel MKL developer guide, environment variables";
inline constexpr std::string_view kMklCbwr =
    "Intel MKL developer guide, conditional numerical "
    "reproducibility";
inline constexpr std::string_view kOpenBlas = "OpenBLAS, docs/runtime_variables.md";
inline constexpr std::string_view kBlis =
    "BLIS, docs/Multithreading.md, docs/ConfigurationHowTo.md";
inline constexpr std::string_view kOpenMp = "OpenMP 5.2, chapter 21, environment variables";
inline constexpr std::string_view kLibomp = "LLVM OpenMP runtime, environment variables";
inline constexpr std::string_view kLibgomp = "GNU libgomp manual, environment variables";
inline constexpr std::string_view kTorchContext = "PyTorch, aten/src/ATen/Context.cpp";
inline constexpr std::string_view kTorchLinear = "PyTorch, aten/src/ATen/native/Linear.cpp";
inline constexpr std::string_view kTorchCuda = "PyTorch, CUDA environment variables";
inline constexpr std::string_view kTorchBlas = "PyTorch, aten/src/ATen/native/cuda/Blas.cpp";
inline constexpr std::string_view kTorchJit = "PyTorch, torch/csrc/jit/OVERVIEW.md";
inline constexpr std::string_view kCuBlas = "cuBLAS documentation, environment variables";
inline constexpr std::string_view kCuBlasRun = "cuBLAS documentation, results reproducibility";
inline constexpr std::string_view kCuda = "CUDA programming guide, environment variables";
inline constexpr std::string_view kCuDnn = "cuDNN developer guide, backend API";
inline constexpr std::string_view kGlibc = "glibc manual, tunables";
}  // namespace source

inline constexpr std::array kKernelVariables = {
    // oneDNN: matrix products of the CPU. DNNL_ is the older spelling of every ONEDNN_.
    KernelVariable{"ONEDNN_MAX_CPU_ISA", VariableEffect::kCpu,
                   "limits the instructions of matrix products", source::kOneDnnIsa},
    KernelVariable{"ONEDNN_CPU_ISA_HINTS", VariableEffect::kCpu,
                   "prefers other vector registers in matrix products", source::kOneDnnIsa},
    KernelVariable{"ONEDNN_DEFAULT_FPMATH_MODE", VariableEffect::kCpu,
                   "lets float32 products be computed in fewer bits", source::kOneDnn},
    KernelVariable{"ONEDNN_VERBOSE*", VariableEffect::kNone, "writes a log", source::kOneDnn},
    KernelVariable{"ONEDNN_JIT_*", VariableEffect::kNone, "writes out kernels for a profiler",
                   source::kOneDnn},
    KernelVariable{"ONEDNN_PRIMITIVE_CACHE_CAPACITY", VariableEffect::kNone,
                   "how many kernels are kept, not which", source::kOneDnn},
    KernelVariable{"ONEDNN_*", VariableEffect::kCpu, "a setting of oneDNN's matrix products",
                   source::kOneDnn},

    // MKL: BLAS and vector functions of the CPU.
    KernelVariable{"MKL_CBWR", VariableEffect::kCpu,
                   "chooses the code path of matrix products and their order of sums",
                   source::kMklCbwr},
    KernelVariable{"MKL_ENABLE_INSTRUCTIONS", VariableEffect::kCpu,
                   "limits the instructions of matrix products", source::kMkl},
    KernelVariable{"MKL_DEBUG_CPU_TYPE", VariableEffect::kCpu,
                   "chooses the code path of matrix products", source::kMkl},
    KernelVariable{"MKL_DYNAMIC", VariableEffect::kCpu,
                   "lets MKL take fewer threads, which split sums at other places", source::kMkl},
    KernelVariable{"MKL_DOMAIN_NUM_THREADS", VariableEffect::kCpu,
                   "another number of threads splits sums at other places", source::kMkl},
    KernelVariable{"MKL_NUM_STRIPES", VariableEffect::kCpu,
                   "splits matrix products at other places", source::kMkl},
    KernelVariable{"MKL_NUM_THREADS", VariableEffect::kNone,
                   "the number of threads that results is recorded as `threads`", source::kMkl},
    KernelVariable{"MKL_VERBOSE*", VariableEffect::kNone, "writes a log", source::kMkl},
    KernelVariable{"MKL_DISABLE_FAST_MM", VariableEffect::kNone, "where memory comes from",
                   source::kMkl},
    KernelVariable{"MKL_FAST_MEMORY_LIMIT", VariableEffect::kNone, "where memory comes from",
                   source::kMkl},
    KernelVariable{"MKL_SERVICE_FORCE_INTEL", VariableEffect::kNone,
                   "of MKL's Python package, which is not used", source::kMkl},
    KernelVariable{"MKL_*", VariableEffect::kCpu, "a setting of MKL's matrix products",
                   source::kMkl},

    // Other BLAS that a torch may be built with.
    KernelVariable{"OPENBLAS_CORETYPE", VariableEffect::kCpu,
                   "chooses the kernels of matrix products", source::kOpenBlas},
    KernelVariable{"OPENBLAS_NUM_THREADS", VariableEffect::kCpu,
                   "another number of threads splits sums at other places", source::kOpenBlas},
    KernelVariable{"OPENBLAS_VERBOSE", VariableEffect::kNone, "writes a log", source::kOpenBlas},
    KernelVariable{"OPENBLAS_*", VariableEffect::kCpu, "a setting of OpenBLAS's matrix products",
                   source::kOpenBlas},
    KernelVariable{"GOTO_NUM_THREADS", VariableEffect::kCpu,
                   "another number of threads splits sums at other places", source::kOpenBlas},
    KernelVariable{"BLIS_*", VariableEffect::kCpu, "a setting of BLIS's matrix products",
                   source::kBlis},
    KernelVariable{"VECLIB_MAXIMUM_THREADS", VariableEffect::kCpu,
                   "another number of threads splits sums at other places", source::kTorchContext},

    // OpenMP: who adds which part of a sum.
    KernelVariable{"OMP_DYNAMIC", VariableEffect::kCpu,
                   "lets a loop have fewer threads, which split sums at other places",
                   source::kOpenMp},
    KernelVariable{"OMP_THREAD_LIMIT", VariableEffect::kCpu,
                   "another number of threads splits sums at other places", source::kOpenMp},
    KernelVariable{"OMP_NESTED", VariableEffect::kCpu,
                   "loops inside of loops split sums at other places", source::kOpenMp},
    KernelVariable{"OMP_MAX_ACTIVE_LEVELS", VariableEffect::kCpu,
                   "loops inside of loops split sums at other places", source::kOpenMp},
    KernelVariable{"OMP_SCHEDULE", VariableEffect::kCpu,
                   "gives the parts of a loop to other threads", source::kOpenMp},
    KernelVariable{"KMP_DETERMINISTIC_REDUCTION", VariableEffect::kCpu,
                   "decides in which order threads' sums are added", source::kLibomp},
    KernelVariable{"KMP_FORCE_REDUCTION", VariableEffect::kCpu,
                   "decides how threads' sums are added", source::kLibomp},
    KernelVariable{"KMP_ALL_THREADS", VariableEffect::kCpu,
                   "another number of threads splits sums at other places", source::kLibomp},
    KernelVariable{"KMP_DEVICE_THREAD_LIMIT", VariableEffect::kCpu,
                   "another number of threads splits sums at other places", source::kLibomp},
    KernelVariable{"KMP_TEAMS_THREAD_LIMIT", VariableEffect::kCpu,
                   "another number of threads splits sums at other places", source::kLibomp},
    KernelVariable{"KMP_DYNAMIC_MODE", VariableEffect::kCpu,
                   "lets a loop have fewer threads, which split sums at other places",
                   source::kLibomp},
    KernelVariable{"KMP_HW_SUBSET", VariableEffect::kCpu,
                   "another number of threads splits sums at other places", source::kLibomp},

    // torch: which of its kernels run, and in how many bits.
    KernelVariable{"ATEN_CPU_CAPABILITY", VariableEffect::kNone,
                   "the instruction set that results is recorded as `cpu_isa`",
                   source::kTorchContext},
    KernelVariable{"ATEN_*", VariableEffect::kAny, "a setting of torch's kernels",
                   source::kTorchContext},
    KernelVariable{"TORCH_MKLDNN_MATMUL_MIN_DIM", VariableEffect::kCpu,
                   "decides which products oneDNN computes", source::kTorchLinear},
    KernelVariable{"TORCH_MKLDNN_MATMUL_MIN_SIZE", VariableEffect::kCpu,
                   "decides which products oneDNN computes", source::kTorchLinear},
    KernelVariable{"TORCH_LINEAR_FLATTEN_3D", VariableEffect::kAny,
                   "gives matrix products another shape", source::kTorchLinear},
    KernelVariable{"TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", VariableEffect::kAny,
                   "TF32 keeps 10 of float32's 23 fraction bits", source::kTorchCuda},
    KernelVariable{"TORCH_BLAS_PREFER_*", VariableEffect::kCuda,
                   "lets another library compute matrix products", source::kTorchContext},
    KernelVariable{"TORCH_LINALG_PREFER_*", VariableEffect::kCuda,
                   "lets another library compute linear algebra", source::kTorchContext},
    KernelVariable{"TORCH_CUDNN_USE_HEURISTIC_MODE_B", VariableEffect::kCuda,
                   "chooses cuDNN's kernels by another rule", source::kTorchCuda},
    KernelVariable{"TORCH_CUDNN_V8_API_DISABLED", VariableEffect::kCuda,
                   "chooses cuDNN's kernels by another rule", source::kTorchCuda},
    KernelVariable{"DISABLE_ADDMM_CUDA_LT", VariableEffect::kCuda,
                   "lets another library compute matrix products", source::kTorchBlas},
    KernelVariable{"TORCH_JIT_DISABLE_NEW_EXECUTOR", VariableEffect::kAny,
                   "another executor may fuse other operations", source::kTorchJit},
    KernelVariable{"PYTORCH_JIT_OPT_LIMIT", VariableEffect::kAny,
                   "other passes may fuse other operations", source::kTorchJit},
    KernelVariable{"PYTORCH_TENSOREXPR*", VariableEffect::kAny,
                   "fused operations round at other places", source::kTorchJit},
    KernelVariable{"PYTORCH_NVFUSER*", VariableEffect::kCuda,
                   "fused operations round at other places", source::kTorchJit},
    KernelVariable{"FBGEMM_STATS_*", VariableEffect::kNone, "writes statistics",
                   source::kTorchContext},
    KernelVariable{"FBGEMM_*", VariableEffect::kCpu, "chooses FBGEMM's kernels",
                   source::kTorchContext},

    // CUDA's libraries. Images carry their versions, which say nothing of what is loaded.
    KernelVariable{"NVIDIA_TF32_OVERRIDE", VariableEffect::kCuda,
                   "TF32 keeps 10 of float32's 23 fraction bits", source::kCuBlas},
    KernelVariable{"CUBLAS_WORKSPACE_CONFIG", VariableEffect::kCuda,
                   "the workspace decides how cuBLAS splits sums", source::kCuBlasRun},
    KernelVariable{"CUBLASLT_WORKSPACE_SIZE", VariableEffect::kCuda,
                   "the workspace decides which kernels may run", source::kTorchCuda},
    KernelVariable{"CUBLAS_VERSION", VariableEffect::kNone, "a note of a container's image",
                   source::kCuBlas},
    KernelVariable{"CUBLAS_LOG*", VariableEffect::kNone, "writes a log", source::kCuBlas},
    KernelVariable{"CUBLASLT_LOG*", VariableEffect::kNone, "writes a log", source::kCuBlas},
    KernelVariable{"CUBLAS*", VariableEffect::kCuda, "a setting of cuBLAS's matrix products",
                   source::kCuBlas},
    KernelVariable{"CUDNN_VERSION", VariableEffect::kNone, "a note of a container's image",
                   source::kCuDnn},
    KernelVariable{"CUDNN_FRONTEND_*", VariableEffect::kNone, "writes a log, or notes a version",
                   source::kCuDnn},
    KernelVariable{"CUDNN_LOG*", VariableEffect::kNone, "writes a log", source::kCuDnn},
    KernelVariable{"CUDNN_*", VariableEffect::kCuda, "a setting of cuDNN's kernels",
                   source::kCuDnn},
    KernelVariable{"CUDA_FORCE_PTX_JIT", VariableEffect::kCuda,
                   "compiles every kernel anew, with another compiler", source::kCuda},
    KernelVariable{"CUDA_DISABLE_PTX_JIT", VariableEffect::kCuda,
                   "runs other kernels where a GPU is newer than the library", source::kCuda},

    // What stands below all of them.
    KernelVariable{"GLIBC_TUNABLES", VariableEffect::kAny,
                   "can hide instructions from the mathematical library", source::kGlibc},
    KernelVariable{"LD_PRELOAD", VariableEffect::kAny,
                   "puts another library in the place of one that computes", source::kGlibc},
};

// Its row; null for a variable that no row stands for. A DNNL_ name finds ONEDNN_'s.
[[nodiscard]] const KernelVariable* find_kernel_variable(std::string_view name);

// "ONEDNN_X" of "DNNL_X"; every other name as it is. oneDNN reads the older spelling where the
// newer one is not set.
[[nodiscard]] std::string canonical_variable(std::string_view name);

// The variables that META records, name to value, as they are set: of `environment` ("NAME=value"
// each, as environ(7)) those with a row that has an effect, and that are not empty.
[[nodiscard]] std::map<std::string, std::string> recorded_variables(const char* const* environment);

}  // namespace kvtool::format
