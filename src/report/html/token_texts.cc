#include "html/token_texts.h"

#include <cstddef>
#include <string_view>

#include "kvtool/base/text.h"

namespace kvtool::report::html {
namespace {

std::size_t expected_length(unsigned char first) {
  if (first >= 0xF0U && first <= 0xF4U) return 4;
  if (first >= 0xE0U && first < 0xF0U) return 3;
  if (first >= 0xC2U && first < 0xE0U) return 2;
  return 1;
}

// Bytes at the end that can still become a character.
std::size_t incomplete_tail(std::string_view bytes) {
  for (std::size_t length = 1; length <= 3 && length <= bytes.size(); ++length) {
    const auto byte = static_cast<unsigned char>(bytes[bytes.size() - length]);
    const bool continuation = (byte & 0xC0U) == 0x80U;
    if (!continuation) return expected_length(byte) > length ? length : 0;
  }
  return 0;
}

}  // namespace

std::vector<std::string> recorded_texts(std::span<const run::TokenText> tokens) {
  std::vector<std::string> texts;
  texts.reserve(tokens.size());
  std::string pending;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    pending += tokens[i].recorded;
    const bool last = i + 1 == tokens.size();
    const std::size_t kept = last ? 0 : incomplete_tail(pending);
    texts.push_back(printable(std::string_view(pending).substr(0, pending.size() - kept)));
    pending.erase(0, pending.size() - kept);
  }
  return texts;
}

}  // namespace kvtool::report::html
