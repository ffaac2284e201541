// Limits of the instruction set of torch's CPU kernels, which make a really different device
// of the same machine: those that there are, which the loader, options, calibration,
// documentation and tests iterate.
#pragma once

#include <array>
#include <string_view>

namespace kvtool::engine {

// Sets no limit.
inline constexpr std::string_view kAnyCpuIsa = "auto";

struct CpuIsa {
  std::string_view name;
  std::string_view cpu_flag;  // that /proc/cpuinfo shows where the CPU has it
  // In the words of the three libraries that obey a limit.
  const char* onednn;
  const char* aten;
  const char* mkl;
};
// Weakest first.
inline constexpr std::array kCpuIsas = {
    CpuIsa{"sse41", "sse4_1", "SSE41", "default", "SSE4_2"},
    CpuIsa{"avx2", "avx2", "AVX2", "avx2", "AVX2"},
    CpuIsa{"avx512", "avx512f", "AVX512_CORE", "avx512", "AVX512"},
    CpuIsa{"avx512_bf16", "avx512_bf16", "AVX512_CORE_BF16", "avx512", "AVX512"},
};

}  // namespace kvtool::engine
