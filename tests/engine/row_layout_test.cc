#include "engine/row_layout.h"

#include <gtest/gtest.h>

#include "kvtool/base/error.h"

namespace kvtool::engine {
namespace {

format::LayerGeometry layer(DType dtype, std::uint32_t heads, std::uint32_t key_dim,
                            std::uint32_t value_dim) {
  return {dtype, dtype, heads, key_dim, value_dim};
}

TEST(RowLayout, EqualLayersFormOneGroup) {
  const RowLayout layout(format::Geometry(std::vector(5, layer(DType::kBFloat16, 3, 64, 64))));
  ASSERT_EQ(layout.groups().size(), 1U);
  EXPECT_EQ(layout.groups()[0].entries, 10);
}

TEST(RowLayout, KeysAndValuesOfOtherWidthFormTwoGroups) {
  const RowLayout layout(format::Geometry(std::vector(5, layer(DType::kBFloat16, 4, 24, 16))));
  ASSERT_EQ(layout.groups().size(), 2U);
  EXPECT_EQ(layout.groups()[0].entries, 5);
  EXPECT_EQ(layout.groups()[1].entries, 5);
}

// Whatever the grouping, the group's view and the entry's view name the same bytes.
TEST(RowLayout, GroupAndEntryViewsAgree) {
  const RowLayout layout(
      format::Geometry({layer(DType::kBFloat16, 3, 8, 8), layer(DType::kBFloat16, 1, 8, 8),
                        layer(DType::kFloat32, 3, 8, 4), layer(DType::kFloat8E4M3, 3, 5, 5),
                        layer(DType::kBFloat16, 3, 8, 8)}));
  at::Tensor deltas = at::zeros({2, layout.row_stride_bytes()}, at::kByte);
  const auto check = [&](const RowLayout::Entry& entry) {
    at::Tensor view = layout.entry_view(deltas, entry).squeeze(2);
    const at::Tensor same =
        layout.group_view(deltas, layout.groups()[entry.group]).select(0, entry.index_in_group);
    EXPECT_EQ(view.data_ptr(), same.data_ptr());
    EXPECT_EQ(view.sizes(), same.sizes());
    EXPECT_EQ(view.strides(), same.strides());
  };
  for (std::int64_t index = 0; index < layout.num_layers(); ++index) {
    check(layout.key(index));
    check(layout.value(index));
  }
}

TEST(RowLayout, GroupsMatchWhenEntriesFallAlike) {
  const auto layout = [](DType key, DType value) {
    return RowLayout(
        format::Geometry(std::vector<format::LayerGeometry>(3, {key, value, 2, 8, 8})));
  };
  const RowLayout half = layout(DType::kBFloat16, DType::kBFloat16);
  EXPECT_TRUE(half.groups_match(layout(DType::kFloat32, DType::kFloat32)));
  EXPECT_FALSE(half.groups_match(layout(DType::kFloat8E4M3, DType::kBFloat16)));
  EXPECT_FALSE(half.groups_match(
      RowLayout(format::Geometry(std::vector(3, layer(DType::kBFloat16, 4, 8, 8))))));
}

}  // namespace
}  // namespace kvtool::engine
