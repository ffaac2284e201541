// The cache of the batch before, for the next one of the same size: its memory is there already.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "engine/cache/kv_cache.h"
#include "engine/key_rotations.h"
#include "kvtool/cache/cache_spec.h"

namespace kvtool::engine {

// Of one model: layout, device and rotations are the same in every call. At most one cache is kept,
// and none while another is made.
class SpareCache {
 public:
  // As cache_maker(), but gives the spare one, cleared, where it is of that spec and size. Used
  // while this object lives.
  [[nodiscard]] CacheMaker maker(const cache::CacheSpec& spec, const KeyRotations& rotations = {});
  // A cache of maker() whose batch has ended.
  void give_back(std::unique_ptr<KvCache> cache);
  void drop() { cache_.reset(); }
  [[nodiscard]] bool holds_one() const { return cache_ != nullptr; }

 private:
  // What makes two caches alike.
  struct Size {
    std::string spec;
    std::int64_t rows = 0;
    std::int64_t positions = 0;

    friend bool operator==(const Size&, const Size&) = default;
  };

  std::unique_ptr<KvCache> cache_;
  Size size_;  // of the last that maker() gave
};

}  // namespace kvtool::engine
