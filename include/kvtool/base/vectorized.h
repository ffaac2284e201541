// Loops that the compiler turns into vector instructions: compiled for each of
// these instruction sets, chosen by the CPU when the program starts. A function
// so marked must give the same bits in every version: write the order of sums of
// floats out, and compile the file without contraction to fused multiply-add
// (-ffp-contract=off).
#pragma once

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
