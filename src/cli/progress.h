// One line on the terminal that says how far a run is.
#pragma once

#include <chrono>
#include <cstdint>
#include <iosfwd>
#include <string>

namespace kvtool::cli {

// Overwrites itself with a carriage return and blanks, no escape sequences.
class ProgressLine {
 public:
  // Disabled, it does nothing.
  ProgressLine(std::ostream& out, bool enabled) : out_(out), enabled_(enabled) {}
  ~ProgressLine() { clear(); }
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  // At most ten times a second.
  void update(const std::string& text);
  // Before anything else is printed.
  void clear();

 private:
  std::ostream& out_;
  bool enabled_;
  std::size_t width_ = 0;
  std::chrono::steady_clock::time_point last_{};
};

// "Verifying [#####     ]  50%", for ProgressLine.
[[nodiscard]] std::string progress_bar(const std::string& what, std::uint64_t done,
                                       std::uint64_t total);

}  // namespace kvtool::cli
