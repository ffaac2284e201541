// Compares one live (or second recorded) row with its reference, step by step.
// Pure computation over spans: no torch, no files. docs/metrics.md defines
// every figure.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "kvtool/format/row.h"

namespace kvtool::analysis {

// Class of one predicted token (design vocabulary). The margin is the
// reference logit of the recorded token minus the best other reference logit;
// ulp is taken at the recorded token's logit in the head's dtype.
enum class TokenVerdict : std::uint8_t {
  kMatch,
  kTie,       // mismatch, margin <= 1 ulp
  kNearTie,   // mismatch, margin <= tolerance_ulps ulp
  kHardFlip,  // mismatch, larger margin, or a non-finite prediction
};
[[nodiscard]] std::string_view verdict_name(TokenVerdict verdict);

// Difference of two equally shaped K/V blocks; sums add up over blocks.
struct KvDifference {
  std::uint64_t elements = 0;
  std::uint64_t differing = 0;     // elements whose bit patterns differ
  std::uint64_t nonfinite = 0;     // NaN or Inf in either block
  double max_abs = 0.0;            // max |live - reference| over finite elements
  double max_reference = 0.0;      // max |reference|
  double sum_squared_error = 0.0;  // float64
  double sum_squared_reference = 0.0;

  [[nodiscard]] bool bitwise_equal() const { return differing == 0; }
  // sqrt(sum_squared_error / sum_squared_reference); 0 when both sums are 0,
  // infinity when only the reference is 0.
  [[nodiscard]] double relative_l2() const;
  // max_abs / max_reference, with the same rule for zeros.
  [[nodiscard]] double relative_max() const;
  void add(const KvDifference& other);
};

// live.size() == reference.size(), a multiple of element_size(dtype).
[[nodiscard]] KvDifference compare_blocks(DType dtype, std::span<const std::byte> live,
                                          std::span<const std::byte> reference);

// One predicted token. index 0 is token 0 (from the prefill), index s + 1 is
// the token that step s predicted.
struct TokenComparison {
  std::uint64_t index = 0;
  std::int32_t recorded = -1;
  std::int32_t predicted = -1;  // -1: no finite logit
  double margin = 0.0;          // from the reference's logits; NaN when top_k < 2
  double ulp = 0.0;
  TokenVerdict verdict = TokenVerdict::kMatch;
  bool logits_equal = false;  // top-k ids and logits, log-sum-exp and digest are bitwise equal
  bool nonfinite = false;     // the live statistics hold NaN or Inf
};

struct RowComparison {
  std::vector<TokenComparison> tokens;  // token 0, then one per compared step
  KvDifference prefill_kv;              // elements == 0: not compared
  KvDifference step_kv;
  // First step whose K/V or logits differ in any bit (index as in TokenComparison).
  std::optional<std::uint64_t> first_bit_difference;

  [[nodiscard]] std::uint64_t matches() const;
  // Index of the first mismatching token.
  [[nodiscard]] std::optional<std::uint64_t> first_divergence() const;
  [[nodiscard]] std::uint64_t count(TokenVerdict verdict) const;
  // Every logit statistic and every compared K/V element is bitwise equal.
  [[nodiscard]] bool bitwise_equal() const;
};

struct ComparisonOptions {
  double tolerance_ulps = 2.0;  // near-tie bound, inclusive
};

// A sink that compares what it is handed with `reference` (must outlive it).
// K/V is compared where the reference has it.
class RowComparator : public format::RowSink {
 public:
  explicit RowComparator(const format::RowSource& reference, ComparisonOptions options = {});
  ~RowComparator() override;

  [[nodiscard]] Needs needs() const override;
  void on_prefill_layer(std::uint32_t layer, std::span<const std::byte> key,
                        std::span<const std::byte> value) override;
  void on_prefill_end(const format::StepStats& stats) override;
  void on_step(std::uint64_t step, const format::StepStats& stats,
               std::span<const std::byte> delta) override;
  void on_final_layer(std::uint32_t layer, std::span<const std::byte> key,
                      std::span<const std::byte> value) override;
  void on_end(const format::RowEnd& end) override;

  // Valid once the run that fed the sink has returned.
  [[nodiscard]] const RowComparison& result() const;
  [[nodiscard]] const format::RowEnd& end() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Margin and ulp of the recorded token by the reference's statistics, and the
// class of a prediction. `logits_dtype` is the head's output dtype.
[[nodiscard]] TokenComparison compare_token(std::uint64_t index, DType logits_dtype,
                                            const format::StepStats& reference,
                                            const format::StepStats& live,
                                            const ComparisonOptions& options);

}  // namespace kvtool::analysis
