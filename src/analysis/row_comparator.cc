#include <algorithm>
#include <string>
#include <utility>

#include "kvtool/analysis/comparison.h"
#include "kvtool/base/error.h"

namespace kvtool::analysis {
namespace {

// A stretch of a delta with one element type and no alignment gap.
struct Segment {
  DType dtype;
  std::uint64_t offset_bytes;
  std::uint64_t size_bytes;
};

// Neighbours of one type are joined: a step of a usual model is one block.
std::vector<Segment> delta_segments(const format::Geometry& geometry) {
  std::vector<Segment> segments;
  const auto append = [&segments](DType dtype, std::uint64_t offset, std::uint64_t size) {
    if (size == 0) return;
    if (!segments.empty()) {
      Segment& last = segments.back();
      if (last.dtype == dtype && last.offset_bytes + last.size_bytes == offset) {
        last.size_bytes += size;
        return;
      }
    }
    segments.push_back({dtype, offset, size});
  };
  for (std::size_t i = 0; i < geometry.num_layers(); ++i) {
    const format::LayerGeometry& layer = geometry.layer(i);
    append(layer.key_dtype, geometry.row_offset(i).key, layer.key_bytes());
    append(layer.value_dtype, geometry.row_offset(i).value, layer.value_bytes());
  }
  return segments;
}

void require_size(std::size_t actual, std::uint64_t expected, const std::string& what) {
  if (actual != expected) {
    throw_incompatible(what + ": the compared row has " + std::to_string(actual) +
                       " bytes, the reference " + std::to_string(expected));
  }
}

}  // namespace

struct RowComparator::Impl {
  Impl(const format::RowSource& source, ComparisonOptions comparison_options)
      : reference(source),
        options(comparison_options),
        num_steps(source.num_steps()),
        has_prefill_kv(source.has_prefill_kv()),
        has_step_kv(source.has_step_kv()),
        segments(delta_segments(source.header().geometry)) {
    comparison.tokens.reserve(num_steps + 1);
    if (has_step_kv) reference_delta.resize(source.header().geometry.delta_bytes());
  }

  void compare_statistics(std::uint64_t index, const format::StepStats& recorded,
                          const format::StepStats& live, bool same_kv) {
    const TokenComparison& token = comparison.tokens.emplace_back(
        compare_token(index, reference.header().logits_dtype, recorded, live, options));
    if (!comparison.first_bit_difference && !(same_kv && token.logits_equal)) {
      comparison.first_bit_difference = index;
    }
  }

  KvDifference compare_delta(std::span<const std::byte> delta) const {
    KvDifference difference;
    const std::span<const std::byte> recorded = reference_delta;
    for (const Segment& segment : segments) {
      difference.add(compare_blocks(segment.dtype,
                                    delta.subspan(segment.offset_bytes, segment.size_bytes),
                                    recorded.subspan(segment.offset_bytes, segment.size_bytes)));
    }
    return difference;
  }

  const format::RowSource& reference;
  ComparisonOptions options;
  std::uint64_t num_steps;
  bool has_prefill_kv;
  bool has_step_kv;
  std::vector<Segment> segments;
  std::vector<std::byte> reference_delta;
  std::vector<std::byte> reference_key;
  std::vector<std::byte> reference_value;
  RowComparison comparison;
  format::RowEnd row_end;
};

RowComparator::RowComparator(const format::RowSource& reference, ComparisonOptions options)
    : impl_(std::make_unique<Impl>(reference, options)) {}

RowComparator::~RowComparator() = default;

format::RowSink::Needs RowComparator::needs() const {
  return {.prefill_kv = impl_->has_prefill_kv, .step_kv = impl_->has_step_kv, .final_kv = false};
}

void RowComparator::on_prefill_layer(std::uint32_t layer, std::span<const std::byte> key,
                                     std::span<const std::byte> value) {
  if (!impl_->has_prefill_kv) return;
  const format::RecordingHeader& header = impl_->reference.header();
  const format::LayerGeometry& geometry = header.geometry.layer(layer);
  const std::uint64_t key_bytes = geometry.key_bytes() * header.prompt_length;
  const std::uint64_t value_bytes = geometry.value_bytes() * header.prompt_length;
  require_size(key.size(), key_bytes, "prompt K of layer " + std::to_string(layer));
  require_size(value.size(), value_bytes, "prompt V of layer " + std::to_string(layer));

  // Grown for the first layer, kept for the others.
  impl_->reference_key.resize(key_bytes);
  impl_->reference_value.resize(value_bytes);
  impl_->reference.read_prefill_layer(layer, impl_->reference_key, impl_->reference_value);
  impl_->comparison.prefill_kv.add(compare_blocks(geometry.key_dtype, key, impl_->reference_key));
  impl_->comparison.prefill_kv.add(
      compare_blocks(geometry.value_dtype, value, impl_->reference_value));
}

void RowComparator::on_prefill_end(const format::StepStats& stats) {
  impl_->compare_statistics(0, impl_->reference.prefill_stats(), stats,
                            impl_->comparison.prefill_kv.bitwise_equal());
  // The prompt's K/V may be large and is not needed again.
  impl_->reference_key = {};
  impl_->reference_value = {};
}

void RowComparator::on_step(std::uint64_t step, const format::StepStats& stats,
                            std::span<const std::byte> delta) {
  if (step >= impl_->num_steps) return;  // the reference ended earlier
  const bool compare_kv = impl_->has_step_kv && !delta.empty();
  if (compare_kv) {
    require_size(delta.size(), impl_->reference_delta.size(),
                 "K/V of step " + std::to_string(step));
  }
  const format::StepStats recorded = impl_->reference.read_step(
      step, compare_kv ? std::span<std::byte>(impl_->reference_delta) : std::span<std::byte>());
  bool same_kv = true;
  if (compare_kv) {
    const KvDifference difference = impl_->compare_delta(delta);
    same_kv = difference.bitwise_equal();
    impl_->comparison.step_kv.add(difference);
  }
  impl_->compare_statistics(step + 1, recorded, stats, same_kv);
}

void RowComparator::on_final_layer(std::uint32_t /*layer*/, std::span<const std::byte> /*key*/,
                                   std::span<const std::byte> /*value*/) {}

void RowComparator::on_end(const format::RowEnd& end) { impl_->row_end = end; }

const RowComparison& RowComparator::result() const { return impl_->comparison; }

const format::RowEnd& RowComparator::end() const { return impl_->row_end; }

std::uint64_t RowComparison::matches() const { return count(TokenVerdict::kMatch); }

std::uint64_t RowComparison::count(TokenVerdict verdict) const {
  return static_cast<std::uint64_t>(
      std::count_if(tokens.begin(), tokens.end(),
                    [verdict](const TokenComparison& token) { return token.verdict == verdict; }));
}

std::optional<std::uint64_t> RowComparison::first_divergence() const {
  const auto found = std::find_if(tokens.begin(), tokens.end(), [](const TokenComparison& token) {
    return token.verdict != TokenVerdict::kMatch;
  });
  if (found == tokens.end()) return std::nullopt;
  return found->index;
}

bool RowComparison::bitwise_equal() const {
  return prefill_kv.bitwise_equal() && step_kv.bitwise_equal() &&
         std::all_of(tokens.begin(), tokens.end(),
                     [](const TokenComparison& token) { return token.logits_equal; });
}

}  // namespace kvtool::analysis
