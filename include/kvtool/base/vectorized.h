// Loops that the compiler turns into vector instructions: compiled for each of
// these instruction sets, chosen by the CPU when the program starts. A function
// so marked must give the same bits in every version: write the order of sums of
// floats out, and compile the file without contraction to fused multiply-add
// (-ffp-contract=off).
#pragma once

#include <cstdint>

// The choice runs before a sanitizer is ready, so sanitized builds have one version.
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define KVTOOL_VECTORIZED \
  __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#define KVTOOL_VECTOR_BYTES 32
#else
#define KVTOOL_VECTORIZED
#define KVTOOL_VECTOR_BYTES 16
#endif

namespace kvtool {

// `a` where the condition holds, without a branch that would hold the vectorizer back.
[[gnu::always_inline]] inline std::uint32_t select(bool condition, std::uint32_t a,
                                                   std::uint32_t b) {
  const std::uint32_t mask = 0U - static_cast<std::uint32_t>(condition);
  return (a & mask) | (b & ~mask);
}

}  // namespace kvtool
