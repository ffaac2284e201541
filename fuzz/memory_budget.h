// Bounds the memory that one input may cost, counted by allocation and not by the
// process: what the sanitizer and libFuzzer themselves keep is not in it.
#pragma once

#include <cstddef>

namespace kvtool::fuzz {

// While it lives, the allocations of all threads that are alive at one time may have
// at most 64 MiB more than `input_bytes` times `copies`; else the process ends with a
// message, which libFuzzer reports as a crash. One at a time.
class MemoryBudget {
 public:
  // copies: how often the caller itself holds the input or what it reads of it.
  MemoryBudget(std::size_t input_bytes, std::size_t copies);
  ~MemoryBudget();
  MemoryBudget(const MemoryBudget&) = delete;
  MemoryBudget& operator=(const MemoryBudget&) = delete;
};

}  // namespace kvtool::fuzz
