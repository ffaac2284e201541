#include "kvtool/cli/progress.h"

#include <ostream>

namespace kvtool::cli {
namespace {

constexpr std::size_t kMaxWidth = 79;

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

}  // namespace kvtool::cli
