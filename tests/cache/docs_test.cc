// docs/caches.md names what cache::policies() has, and nothing else.
#include <gtest/gtest.h>

#include "kvtool/cache/policies.h"
#include "support/markdown_table.h"

namespace kvtool::cache {
namespace {

const std::filesystem::path kPage = std::filesystem::path(KVTOOL_DOCS) / "caches.md";

TEST(CacheDocs, TableIsThatOfThePolicies) {
  const MarkdownTable table = read_table(kPage, "Caches", "policy");
  std::vector<std::string> expected_names;
  std::vector<std::string> expected_summaries;
  for (const PolicyInfo& policy : policies()) {
    expected_names.push_back("`" + std::string(policy.name) + "`");
    expected_summaries.emplace_back(policy.summary);
  }
  EXPECT_EQ(table.cells("policy"), expected_names);
  EXPECT_EQ(table.cells("what it does"), expected_summaries);
}

// A policy that takes options has a table "option" in the section of its name.
TEST(CacheDocs, OptionsAreThoseOfThePolicies) {
  for (const PolicyInfo& policy : policies()) {
    const auto table = find_table(kPage, policy.name, "option");
    std::vector<std::string> expected;
    for (const OptionInfo& option : policy.options) {
      expected.push_back("`" + std::string(option.name) + "`");
    }
    EXPECT_EQ(table ? table->cells("option") : std::vector<std::string>(), expected) << policy.name;
  }
}

}  // namespace
}  // namespace kvtool::cache
