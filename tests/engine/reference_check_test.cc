#include "engine/reference_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "memory_row.h"
#include "support/error_of.h"

namespace kvtool::engine {
namespace {

format::Geometry geometry(DType dtype, std::uint32_t heads) {
  return format::Geometry({{dtype, dtype, heads, 4, 4}, {dtype, dtype, heads, 4, 4}});
}

class CheckReferences : public testing::Test {
 protected:
  CheckReferences() {
    model_.path = "model.pt";
    model_.vocab_size = 10;
    model_.logits_dtype = DType::kBFloat16;
    model_.geometry = geometry(DType::kBFloat16, 2);
    for (MemoryRow* row : {&first_, &second_}) {
      row->recording_header.vocab_size = 10;
      row->recording_header.logits_dtype = DType::kBFloat16;
      row->recording_header.top_k = 4;
      row->recording_header.logits_sample = 3;
      row->recording_header.geometry = model_.geometry;
      batch_.rows.push_back({row});
    }
  }

  [[nodiscard]] ReferenceFormat check(bool allow_different_weights) const {
    return check_references(model_, batch_, allow_different_weights);
  }

  std::string message(bool allow_different_weights) {
    const Error error = error_of([&] { (void)check(allow_different_weights); });
    EXPECT_EQ(error.code(), ErrorCode::kIncompatible);
    return error.what();
  }

  ModelInfo model_;
  MemoryRow first_;
  MemoryRow second_;
  ReplayBatch batch_;
};

TEST_F(CheckReferences, TellsWhatTheRecordingsHaveInCommon) {
  EXPECT_EQ(check(false).top_k, 4U);
  EXPECT_EQ(check(false).gathered.at_reference_top, 4);
  EXPECT_EQ(check(false).gathered.sample, 3);
  EXPECT_EQ(check(false).geometry, model_.geometry);
}

TEST_F(CheckReferences, RecordingsWithoutLogitsAreReplayedWithoutAny) {
  for (MemoryRow* row : {&first_, &second_}) {
    row->recording_header.top_k = 0;
    row->recording_header.logits_sample = 0;
  }
  EXPECT_EQ(check(false).top_k, 1U);
  EXPECT_EQ(check(false).gathered.count(), 0);
}

TEST_F(CheckReferences, RefusesOtherWeightsUnlessAllowed) {
  second_.recording_header.model_sha256[0] = 1;
  EXPECT_THAT(message(false), testing::HasSubstr("allow_different_weights"));
  EXPECT_NO_THROW((void)check(true));
}

TEST_F(CheckReferences, RefusesOtherKvDtypesUnlessAllowed) {
  first_.recording_header.geometry = geometry(DType::kFloat16, 2);
  second_.recording_header.geometry = geometry(DType::kFloat16, 2);
  EXPECT_THAT(message(false), testing::HasSubstr("layer 0: float16 keys against bfloat16"));
  EXPECT_EQ(check(true).geometry, first_.recording_header.geometry);
}

TEST_F(CheckReferences, RefusesOtherLogitsDtypesUnlessAllowed) {
  first_.recording_header.logits_dtype = DType::kFloat32;
  EXPECT_THAT(message(false), testing::HasSubstr("logits are float32"));
  EXPECT_NO_THROW((void)check(true));
}

TEST_F(CheckReferences, ShapeAndVocabularyMustAgreeAlways) {
  first_.recording_header.geometry = geometry(DType::kFloat16, 3);
  EXPECT_THAT(message(true), testing::HasSubstr("3 KV heads against 2"));
  first_.recording_header.geometry = format::Geometry({model_.geometry.layer(0)});
  EXPECT_THAT(message(true), testing::HasSubstr("1 layers against 2"));
  first_.recording_header.geometry = model_.geometry;
  first_.recording_header.vocab_size = 11;
  EXPECT_THAT(message(true), testing::HasSubstr("vocabulary of 11"));
}

TEST_F(CheckReferences, RefusesMixedBatches) {
  second_.recording_header.top_k = 5;
  EXPECT_THAT(message(true), testing::HasSubstr("4 and 5"));
  second_.recording_header.top_k = 4;
  second_.recording_header.logits_sample = 0;
  EXPECT_THAT(message(true), testing::HasSubstr("3 and 0"));
  second_.recording_header.logits_sample = 3;
  second_.recording_header.geometry = geometry(DType::kFloat16, 2);
  EXPECT_THAT(message(true), testing::HasSubstr("same dtypes"));
  batch_.rows.clear();
  EXPECT_THROW((void)check(true), Error);
}

}  // namespace
}  // namespace kvtool::engine
