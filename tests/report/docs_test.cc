// The table of columns in docs/lab.md is that of the code.
#include <gtest/gtest.h>

#include "report/lab/lab_words.h"
#include "support/markdown_table.h"

namespace kvtool::report {
namespace {

TEST(LabDocs, TableNamesEveryColumnInOrder) {
  std::vector<std::string> expected;
  for (const LabColumn& column : lab_columns()) {
    expected.push_back("`" + std::string(column.title) + "`");
  }
  const std::filesystem::path page = std::filesystem::path(KVTOOL_DOCS) / "lab.md";
  EXPECT_EQ(read_table(page, "Columns", "column").cells("column"), expected);
}

}  // namespace
}  // namespace kvtool::report
