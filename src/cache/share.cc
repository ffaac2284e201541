#include "kvtool/cache/share.h"

#include <algorithm>

namespace kvtool::cache {
namespace {

constexpr char kPercentSign = '%';
constexpr int kDecimals = 3;
constexpr std::uint64_t kThousand = 1000;

}  // namespace

std::optional<Share> Share::parse(std::string_view text) {
  if (!text.ends_with(kPercentSign)) return std::nullopt;
  text.remove_suffix(1);
  std::uint64_t number = 0;
  int decimals = -1;  // no point yet
  for (const char c : text) {
    if (c == '.' && decimals < 0) {
      decimals = 0;
      continue;
    }
    if (c < '0' || c > '9' || decimals == kDecimals || number > kAll) return std::nullopt;
    number = number * 10 + static_cast<std::uint64_t>(c - '0');
    if (decimals >= 0) ++decimals;
  }
  if (text.empty() || text.front() == '.' || decimals == 0) return std::nullopt;
  for (int i = std::max(decimals, 0); i < kDecimals; ++i) number *= 10;
  if (number > kAll) return std::nullopt;
  return Share(number);
}

Share Share::at_least(std::uint64_t part, std::uint64_t whole) {
  if (part == 0) return Share();
  // of() rounds up: more than part - 1.
  const std::uint64_t percent = (part - 1) * 100 / whole + 1;
  return Share(std::min(kAll, percent * kThousand));
}

std::uint64_t Share::of(std::uint64_t number) const {
  // number = a * kAll + b, so that no product passes 64 bits.
  const std::uint64_t product = number % kAll * thousandths_;
  return number / kAll * thousandths_ + product / kAll + (product % kAll == 0 ? 0 : 1);
}

std::string Share::to_string() const {
  std::string text = std::to_string(thousandths_ / kThousand);
  std::string rest = std::to_string(kThousand + thousandths_ % kThousand).substr(1);
  while (rest.ends_with('0')) rest.pop_back();
  if (!rest.empty()) text += "." + rest;
  return text + kPercentSign;
}

}  // namespace kvtool::cache
