// The text bytes of every token id, so that text is printed without a tokenizer.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace kvtool::engine {

class TokenTable {
 public:
  TokenTable() = default;
  // token_bytes.bin: little-endian u32 count, count + 1 u32 offsets, the bytes.
  // An empty string is an empty table. Error kIncompatible when it is damaged.
  TokenTable(const std::string& path, std::string data);

  // Empty for ids without text. Lives as long as the table.
  [[nodiscard]] std::string_view bytes(std::int32_t token) const;

 private:
  std::string data_;
  std::vector<std::uint32_t> offsets_;
  std::size_t base_ = 0;
};

}  // namespace kvtool::engine
