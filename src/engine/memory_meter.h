// What a run takes of its device's memory, as far as torch's allocators and the system tell.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/row_layout.h"
#include "kvtool/engine/api.h"

namespace kvtool::engine {

// From construction on, on the thread that made it. Torch's allocators report every allocation of
// the thread, which costs a run some time: measure that in another one. At most one a thread.
class MemoryMeter {
 public:
  explicit MemoryMeter(at::Device device);
  ~MemoryMeter();
  MemoryMeter(const MemoryMeter&) = delete;
  MemoryMeter& operator=(const MemoryMeter&) = delete;

  // Of this thread; null where nobody measures.
  [[nodiscard]] static MemoryMeter* current();

  // A step begins in which each of `rows` sees so many positions: from now on a tensor that
  // attention allocates in the size of K or V of these counts as a copy.
  void begin_step(const RowLayout& layout, std::int64_t rows, std::int64_t positions);

  [[nodiscard]] MemoryUse use() const;

  // What is allocated while it lives is allocated by attention. Costs next to nothing where nobody
  // measures.
  class InAttention {
   public:
    InAttention();
    ~InAttention();
    InAttention(const InAttention&) = delete;
    InAttention& operator=(const InAttention&) = delete;

   private:
    MemoryMeter* meter_;
  };

 private:
  class Counter;
  class Scope;

  at::Device device_;
  std::uint64_t before_bytes_;
  std::shared_ptr<Counter> counter_;
  std::unique_ptr<Scope> scope_;  // while it lives, the allocators report
};

}  // namespace kvtool::engine
