#include "kvtool/base/setting.h"

namespace kvtool {
namespace {

// "Unit separator" and "record separator": in no message otherwise, and printable() escapes
// both, so that a path that holds one cannot pass for a setting unnoticed.
constexpr char kBegin = '\x1F';
constexpr char kEnd = '\x1E';

}  // namespace

std::string setting(std::string_view name) { return kBegin + std::string(name) + kEnd; }

std::string spelled(std::string_view message,
                    const std::function<std::string(std::string_view)>& spell) {
  std::string result;
  while (!message.empty()) {
    const std::size_t begin = message.find(kBegin);
    const std::size_t end = begin == std::string_view::npos ? begin : message.find(kEnd, begin);
    if (end == std::string_view::npos) break;
    result += message.substr(0, begin);
    result += spell(message.substr(begin + 1, end - begin - 1));
    message.remove_prefix(end + 1);
  }
  return result.append(message);
}

std::string unmarked(std::string_view message) {
  return spelled(message, [](std::string_view name) { return std::string(name); });
}

}  // namespace kvtool
