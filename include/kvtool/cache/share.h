// A share of something, exact to a thousandth of a percent.
#pragma once

#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace kvtool::cache {

// From 0 to 100 %.
class Share {
 public:
  // Nothing.
  Share() = default;
  [[nodiscard]] static Share all() { return Share(kAll); }
  // The least whole percent that gives `part` of `whole` things, which are more than none.
  [[nodiscard]] static Share at_least(std::uint64_t part, std::uint64_t whole);

  // "25%", "12.5%"; nothing where the text is no such share.
  [[nodiscard]] static std::optional<Share> parse(std::string_view text);

  [[nodiscard]] bool is_all() const { return thousandths_ == kAll; }
  [[nodiscard]] bool is_none() const { return thousandths_ == 0; }
  // Of so many, rounded up.
  [[nodiscard]] std::uint64_t of(std::uint64_t number) const;
  [[nodiscard]] double fraction() const {
    return static_cast<double>(thousandths_) / static_cast<double>(kAll);
  }
  [[nodiscard]] std::string to_string() const;  // "12.5%"

  friend auto operator<=>(const Share&, const Share&) = default;

 private:
  static constexpr std::uint64_t kAll = 100'000;
  explicit Share(std::uint64_t thousandths) : thousandths_(thousandths) {}

  std::uint64_t thousandths_ = 0;  // of a percent
};

}  // namespace kvtool::cache
