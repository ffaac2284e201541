// How far apart values are, counted in representable values between them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace kvtool::analysis {

// Counts of distances between representable values: exact below 16, in four
// buckets of equal width per octave above.
class UlpHistogram {
 public:
  void add(std::uint32_t distance, std::uint64_t count = 1);
  void add(std::span<const std::uint32_t> distances);
  void add(const UlpHistogram& other);
  [[nodiscard]] std::uint64_t total() const;
  // Largest distance of the bucket that holds the q-quantile (nearest rank); 0 when empty.
  [[nodiscard]] double quantile(double q) const;
  // Forgets the counts, keeps the memory.
  void clear();

 private:
  // Up to the highest bucket in use: a profile has thousands of histograms.
  std::vector<std::uint64_t> counts_;
  std::uint64_t zeros_ = 0;  // without those of counts_[0]
};

}  // namespace kvtool::analysis
