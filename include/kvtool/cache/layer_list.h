// Which layers of a model an option of a cache is about.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace kvtool::cache {

// All layers, or some ranges of them: "all", "5", "2-13+16". Layers count from 0.
class LayerList {
 public:
  // All of them.
  LayerList() = default;

  // Nothing where the text is neither "all" nor ranges, or a range ends before it begins.
  [[nodiscard]] static std::optional<LayerList> parse(std::string_view text);

  [[nodiscard]] bool is_all() const { return ranges_.empty(); }
  [[nodiscard]] bool contains(std::uint64_t layer) const;
  // The greatest that it names; 0 where it is all.
  [[nodiscard]] std::uint64_t last() const { return is_all() ? 0 : ranges_.back().last; }
  // Canonical: ascending, and neighbours in one range.
  [[nodiscard]] std::string to_string() const;

 private:
  struct Range {
    std::uint64_t first = 0;
    std::uint64_t last = 0;
  };
  void tidy();

  std::vector<Range> ranges_;  // empty: all
};

}  // namespace kvtool::cache
