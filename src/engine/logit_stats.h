// Statistics of one row of logits, computed where the logits are, by a rule
// that every device follows to the bit: greedy choice, top-k, digest and the logits at
// given ids. (The log-sum-exp depends on the device's exp.) A CPU reads each row in a few passes
// of its own; other devices, and rows with NaN, go through tensor operations.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <span>

#include "engine/gathered_ids.h"
#include "kvtool/format/recording.h"

namespace kvtool::engine {

class LogitStats {
 public:
  // `vocab_size` columns; top_k entries are kept (1 <= top_k <= vocab_size).
  LogitStats(std::int64_t vocab_size, std::int64_t top_k, const GatheredLogits& gathered,
             at::Device device);

  // logits [B, vocab] -> i64 [B, packed_width()]: top_k ordered keys, then the
  // bits of the float64 log-sum-exp, then the digest, then the gathered logits as float32.
  // ids: GatheredIds::to_device(), of B rows or of one for all. No host synchronisation.
  [[nodiscard]] at::Tensor pack(const at::Tensor& logits, const at::Tensor& ids) const;
  // logits [B, vocab] -> i64 [B], the greedy choices: lowest id among the
  // maximal logits, as keys. logit_of() of a row with a NaN or +Inf is not finite.
  [[nodiscard]] at::Tensor greedy_keys(const at::Tensor& logits) const;

  // What pack() does where the logits are not in the CPU's memory.
  [[nodiscard]] at::Tensor pack_with_tensors(const at::Tensor& logits, const at::Tensor& ids) const;

  [[nodiscard]] std::int64_t top_k() const { return top_k_; }
  [[nodiscard]] const GatheredLogits& gathered() const { return gathered_; }
  [[nodiscard]] std::int64_t packed_width() const {
    return gathered_at() + gathered_.columns() / 2;
  }

  // A key holds the logit, mapped to integers of the same order, above the
  // inverted id: sorting keys sorts by logit descending, then id ascending.
  [[nodiscard]] static std::int32_t token_of(std::int64_t key);
  [[nodiscard]] static float logit_of(std::int64_t key);

  // The greedy choice of one packed row; -1 when no logit is finite or one is NaN.
  [[nodiscard]] std::int32_t choice(std::span<const std::int64_t> packed) const;
  // Fills everything but input_token and elapsed_ns. token is choice().
  void unpack(std::span<const std::int64_t> packed, format::StepStats& stats) const;

 private:
  // ids: of the row, [1, columns()] or undefined.
  void pack_row(const at::Tensor& logits, const at::Tensor& ids, std::int64_t* packed) const;
  [[nodiscard]] std::int64_t gathered_at() const { return top_k_ + 2; }
  [[nodiscard]] at::Tensor greedy_keys_with_tensors(const at::Tensor& logits) const;
  [[nodiscard]] at::Tensor ordered_keys(const at::Tensor& logits) const;
  [[nodiscard]] at::Tensor digest(const at::Tensor& logits) const;

  std::int64_t top_k_;
  GatheredLogits gathered_;
  at::Tensor inverted_ids_;  // i64 [vocab]: 2^32 - 1 - id
  at::Tensor weights_;       // i64 [vocab]: splitmix64(id) | 1
};

}  // namespace kvtool::engine
