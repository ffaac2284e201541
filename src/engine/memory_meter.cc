#include "engine/memory_meter.h"

#include <c10/core/Allocator.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include <algorithm>
#include <fstream>
#include <set>
#include <string>

#include "kvtool/base/error.h"

namespace kvtool::engine {
namespace {

thread_local MemoryMeter* active_meter = nullptr;

// Allocators of devices hand out whole blocks.
constexpr std::uint64_t kDeviceBlockBytes = 512;

// "VmHWM:    123 kB" of /proc/self/status in bytes; 0 where there is none.
std::uint64_t status_bytes(const std::string& name) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (!line.starts_with(name + ":")) continue;
    return std::strtoull(line.c_str() + name.size() + 1, nullptr, 10) * 1024;
  }
  return 0;
}

c10::CachingAllocator::Stat allocated_on(at::Device device) {
  const auto stats = c10::getDeviceAllocator(device.type())->getDeviceStats(device.index());
  return stats
      .allocated_bytes[static_cast<std::size_t>(c10::CachingAllocator::StatType::AGGREGATE)];
}

void reset_peak(at::Device device) {
  if (!device.is_cpu()) {
    c10::getDeviceAllocator(device.type())->resetPeakStats(device.index());
    return;
  }
  std::ofstream("/proc/self/clear_refs") << "5";  // VmHWM; where that is refused, it stays
}

std::uint64_t held_bytes(at::Device device) {
  if (device.is_cpu()) return status_bytes("VmRSS");
  return static_cast<std::uint64_t>(allocated_on(device).current);
}

std::uint64_t peak_bytes(at::Device device) {
  if (device.is_cpu()) return status_bytes("VmHWM");
  return static_cast<std::uint64_t>(allocated_on(device).peak);
}

}  // namespace

// Called on the meter's thread alone: torch keeps it with the thread.
class MemoryMeter::Counter : public c10::MemoryReportingInfoBase {
 public:
  explicit Counter(at::Device device) : device_(device) {}

  void reportMemoryUsage(void* /*ptr*/, std::int64_t alloc_size, std::size_t /*total_allocated*/,
                         std::size_t /*total_reserved*/, c10::Device device) override {
    if (device.type() != device_.type()) return;
    live_ += alloc_size;
    peak_ = std::max(peak_, live_);
    if (alloc_size > 0 && attention_depth > 0 && is_copy(static_cast<std::uint64_t>(alloc_size))) {
      ++copies;
    }
  }
  // Out of memory: the run ends with that error.
  void reportOutOfMemory(std::int64_t /*alloc_size*/, std::size_t /*total_allocated*/,
                         std::size_t /*total_reserved*/, c10::Device /*device*/) override {}
  [[nodiscard]] bool memoryProfilingEnabled() const override { return true; }

  [[nodiscard]] std::uint64_t peak() const {
    return static_cast<std::uint64_t>(std::max<std::int64_t>(0, peak_));
  }

  std::set<std::uint64_t> copy_sizes = {};
  std::uint64_t copies = 0;
  std::uint64_t whole_cache = 0;  // copies that would be of all K and V, over the steps
  int attention_depth = 0;

 private:
  [[nodiscard]] bool is_copy(std::uint64_t bytes) const {
    if (device_.is_cpu()) return copy_sizes.contains(bytes);
    const auto largest = copy_sizes.upper_bound(bytes);
    return largest != copy_sizes.begin() && bytes - *std::prev(largest) < kDeviceBlockBytes;
  }

  at::Device device_;
  std::int64_t live_ = 0;
  std::int64_t peak_ = 0;
};

class MemoryMeter::Scope {
 public:
  explicit Scope(const std::shared_ptr<Counter>& counter)
      : guard_(c10::DebugInfoKind::PROFILER_STATE, counter) {}

 private:
  c10::DebugInfoGuard guard_;
};

MemoryMeter::MemoryMeter(at::Device device)
    : device_(device), counter_(std::make_shared<Counter>(device)) {
  if (active_meter != nullptr) throw_misuse("two meters of memory on one thread");
  reset_peak(device);
  before_bytes_ = held_bytes(device);
  scope_ = std::make_unique<Scope>(counter_);
  active_meter = this;
}

MemoryMeter::~MemoryMeter() { active_meter = nullptr; }

MemoryMeter* MemoryMeter::current() { return active_meter; }

void MemoryMeter::begin_step(const RowLayout& layout, std::int64_t rows, std::int64_t positions) {
  const auto count = static_cast<std::uint64_t>(rows * positions);
  counter_->copy_sizes.clear();
  for (const format::LayerGeometry& layer : layout.geometry().layers()) {
    const std::uint64_t heads = layer.num_kv_heads;
    counter_->copy_sizes.insert({count * layer.key_bytes(), count * layer.value_bytes(),
                                 count * heads * layer.key_dim * sizeof(float),
                                 count * heads * layer.value_dim * sizeof(float)});
    counter_->whole_cache += 2;
  }
}

MemoryUse MemoryMeter::use() const {
  MemoryUse use;
  use.source = device_.is_cpu() ? "resident set of the process" : "torch's allocator of the device";
  use.before_bytes = before_bytes_;
  use.peak_bytes = std::max(before_bytes_, peak_bytes(device_));
  use.tensor_bytes = counter_->peak();
  if (counter_->whole_cache > 0) {
    use.kv_copies_per_step =
        static_cast<double>(counter_->copies) / (static_cast<double>(counter_->whole_cache));
  }
  return use;
}

MemoryMeter::InAttention::InAttention() : meter_(active_meter) {
  if (meter_ != nullptr) ++meter_->counter_->attention_depth;
}

MemoryMeter::InAttention::~InAttention() {
  if (meter_ != nullptr) --meter_->counter_->attention_depth;
}

}  // namespace kvtool::engine
