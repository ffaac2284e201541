#include "memory_budget.h"

#include <sanitizer/allocator_interface.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>

namespace kvtool::fuzz {
namespace {

constexpr long long kExtraBytes = 64LL << 20;

// Atomics without constructors, since allocations happen before main().
std::atomic<bool> counting{false};
std::atomic<long long> alive{0};
std::atomic<long long> limit{0};

void on_allocation(const volatile void*, std::size_t bytes) {
  if (!counting.load(std::memory_order_relaxed)) return;
  const long long now = alive += static_cast<long long>(bytes);
  if (now <= limit) return;
  counting = false;
  std::fprintf(stderr, "memory budget exceeded: %lld bytes are allocated, %lld are allowed\n", now,
               limit.load());
  std::abort();
}

// What was allocated before counting began lowers the sum, which allows the input no more than
// the little that lives so long.
void on_free(const volatile void* block) {
  if (block == nullptr || !counting.load(std::memory_order_relaxed)) return;
  alive -= static_cast<long long>(__sanitizer_get_allocated_size(const_cast<const void*>(block)));
}

}  // namespace

MemoryBudget::MemoryBudget(std::size_t input_bytes, std::size_t copies) {
  [[maybe_unused]] static const int installed =
      __sanitizer_install_malloc_and_free_hooks(on_allocation, on_free);
  alive = 0;
  limit = kExtraBytes + static_cast<long long>(input_bytes * copies);
  counting = true;
}

MemoryBudget::~MemoryBudget() { counting = false; }

}  // namespace kvtool::fuzz
