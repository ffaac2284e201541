// XXH3-64 with seed 0, the only checksum of the format.
#pragma once

#include <xxhash.h>
// Chooses the widest vectors that the machine has, when it first runs.
#if defined(__x86_64__) && __has_include(<xxh_x86dispatch.h>)
#include <xxh_x86dispatch.h>
#endif

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace kvtool::format {

[[nodiscard]] inline std::uint64_t checksum(std::span<const std::byte> data) {
  return XXH3_64bits(data.data(), data.size());
}

// The same value over bytes that arrive in parts.
class StreamingChecksum {
 public:
  StreamingChecksum();

  void reset();
  void update(std::span<const std::byte> data);
  [[nodiscard]] std::uint64_t digest() const;

 private:
  struct Free {
    void operator()(XXH3_state_t* state) const;
  };
  std::unique_ptr<XXH3_state_t, Free> state_;
};

}  // namespace kvtool::format
