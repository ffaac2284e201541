// What of a packed file could not be unpacked, as places in the original.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

namespace kvtool::format {

// Thread-safe. Grows with the damaged sections only.
class PackedDamage {
 public:
  // Columns of a piece: its bytes from `start` on are rows of row_bytes.
  struct Columns {
    std::uint64_t start = 0;
    std::uint64_t bytes = 0;
    std::uint64_t row_bytes = 0;
    std::uint64_t column = 0;
    std::uint64_t width = 0;
    std::string problem = {};
  };

  void add(Columns columns);
  void add_piece(std::uint64_t start, std::uint64_t bytes, std::string problem) {
    add({start, bytes, bytes, 0, bytes, std::move(problem)});
  }
  // The first problem among these bytes, as far as they have been read; empty without one.
  [[nodiscard]] std::optional<std::string> find(std::uint64_t offset, std::uint64_t bytes) const;

 private:
  mutable std::mutex mutex_;
  std::map<std::pair<std::uint64_t, std::uint64_t>, Columns> columns_;  // by start and column
};

}  // namespace kvtool::format
