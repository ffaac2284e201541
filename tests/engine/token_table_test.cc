#include "engine/token_table.h"

#include <gtest/gtest.h>

#include <cstring>

#include "kvtool/base/error.h"

namespace kvtool::engine {
namespace {

std::string table(const std::vector<std::string>& tokens) {
  std::string data;
  const auto put = [&data](std::uint32_t value) {
    data.append(reinterpret_cast<const char*>(&value), sizeof value);
  };
  put(static_cast<std::uint32_t>(tokens.size()));
  std::uint32_t offset = 0;
  put(offset);
  for (const auto& token : tokens) put(offset += static_cast<std::uint32_t>(token.size()));
  for (const auto& token : tokens) data += token;
  return data;
}

TEST(TokenTable, GivesEachTokensBytes) {
  const TokenTable tokens("m.pt", table({"Hello", "", " \xC3", "\xA9"}));
  EXPECT_EQ(tokens.bytes(0), "Hello");
  EXPECT_EQ(tokens.bytes(1), "");
  EXPECT_EQ(tokens.bytes(2), " \xC3");
  EXPECT_EQ(tokens.bytes(3), "\xA9");
}

TEST(TokenTable, IdsOutsideHaveNoText) {
  const TokenTable tokens("m.pt", table({"a"}));
  EXPECT_EQ(tokens.bytes(-1), "");
  EXPECT_EQ(tokens.bytes(1), "");
  EXPECT_EQ(TokenTable("m.pt", "").bytes(0), "");
}

TEST(TokenTable, RefusesDamage) {
  const std::string good = table({"ab", "c"});
  for (std::size_t length = 1; length < good.size(); ++length) {
    EXPECT_THROW(TokenTable("m.pt", good.substr(0, length)), Error) << length;
  }
  std::string descending = good;
  descending[8] = 9;
  EXPECT_THROW(TokenTable("m.pt", descending), Error);
}

}  // namespace
}  // namespace kvtool::engine
