#include "progress.h"

#include <algorithm>
#include <ostream>

namespace kvtool::cli {
namespace {

constexpr std::size_t kMaxWidth = 79;
constexpr std::uint64_t kBarWidth = 40;

}  // namespace

void ProgressLine::update(const std::string& text) {
  if (!enabled_) return;
  const auto now = std::chrono::steady_clock::now();
  if (now - last_ < std::chrono::milliseconds(100)) return;
  last_ = now;
  const std::string shown = text.substr(0, kMaxWidth);
  out_ << '\r' << shown;
  if (shown.size() < width_) out_ << std::string(width_ - shown.size(), ' ');
  out_ << std::flush;
  width_ = shown.size();
}

void ProgressLine::clear() {
  if (width_ == 0) return;
  out_ << '\r' << std::string(width_, ' ') << '\r' << std::flush;
  width_ = 0;
}

std::string progress_bar(const std::string& what, std::uint64_t done, std::uint64_t total) {
  const double part =
      total == 0 ? 0.0 : std::min(1.0, static_cast<double>(done) / static_cast<double>(total));
  const auto filled = static_cast<std::size_t>(part * static_cast<double>(kBarWidth));
  const std::string percent = std::to_string(static_cast<int>(part * 100));
  return what + " [" + std::string(filled, '#') + std::string(kBarWidth - filled, ' ') + "] " +
         std::string(3 - percent.size(), ' ') + percent + "%";
}

}  // namespace kvtool::cli
