#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <utility>

#include "kvtool/analysis/row_comparison.h"
#include "kvtool/base/error.h"

namespace kvtool::analysis {
namespace {

using format::Geometry;
using format::LayerGeometry;

// K or V of one layer on both sides.
struct RowEntry {
  KvKind kind;
  std::size_t layer;
  std::uint32_t heads;
  std::uint32_t dim;
  DType live_dtype;
  DType reference_dtype;
  std::uint64_t live_offset;  // in a delta
  std::uint64_t reference_offset;

  [[nodiscard]] std::size_t live_row_bytes() const { return dim * element_size(live_dtype); }
  [[nodiscard]] std::size_t reference_row_bytes() const {
    return dim * element_size(reference_dtype);
  }
};

void require_same_shape(const Geometry& live, const Geometry& reference) {
  const auto fail = [](const std::string& what) {
    throw_incompatible("K/V of different shape cannot be compared: " + what);
  };
  if (live.num_layers() != reference.num_layers()) {
    fail(std::to_string(live.num_layers()) + " layers against the reference's " +
         std::to_string(reference.num_layers()));
  }
  const auto describe = [](const LayerGeometry& layer) {
    return std::to_string(layer.num_kv_heads) + " KV heads of " + std::to_string(layer.key_dim) +
           " (K) and " + std::to_string(layer.value_dim) + " (V)";
  };
  for (std::size_t i = 0; i < live.num_layers(); ++i) {
    const LayerGeometry& a = live.layer(i);
    const LayerGeometry& b = reference.layer(i);
    if (a.num_kv_heads != b.num_kv_heads || a.key_dim != b.key_dim || a.value_dim != b.value_dim) {
      fail("layer " + std::to_string(i) + " has " + describe(a) + ", the reference " + describe(b));
    }
  }
}

// K before V, layer by layer.
std::vector<RowEntry> list_entries(const Geometry& live, const Geometry& reference) {
  format::require_plain(reference, "the reference", "a comparison");
  format::require_plain(live, "the compared row", "a comparison");
  require_same_shape(live, reference);
  std::vector<RowEntry> entries;
  for (std::size_t i = 0; i < reference.num_layers(); ++i) {
    const LayerGeometry& a = live.layer(i);
    const LayerGeometry& b = reference.layer(i);
    entries.push_back({.kind = KvKind::kKey,
                       .layer = i,
                       .heads = b.num_kv_heads,
                       .dim = b.key_dim,
                       .live_dtype = a.key_dtype,
                       .reference_dtype = b.key_dtype,
                       .live_offset = live.row_offset(i).key,
                       .reference_offset = reference.row_offset(i).key});
    entries.push_back({.kind = KvKind::kValue,
                       .layer = i,
                       .heads = b.num_kv_heads,
                       .dim = b.value_dim,
                       .live_dtype = a.value_dtype,
                       .reference_dtype = b.value_dtype,
                       .live_offset = live.row_offset(i).value,
                       .reference_offset = reference.row_offset(i).value});
  }
  return entries;
}

// Error of one row: all heads of one layer at one position.
struct RowSums {
  double squared_error = 0.0;
  double squared_reference = 0.0;
  bool nonfinite = false;

  void add(const KvError& error) {
    squared_error += error.sum_squared_error;
    squared_reference += error.sum_squared_reference;
    nonfinite |= error.nonfinite > 0;
  }
  [[nodiscard]] double relative_l2() const {
    if (nonfinite) return std::numeric_limits<double>::quiet_NaN();
    if (squared_reference > 0.0) return std::sqrt(squared_error / squared_reference);
    return squared_error > 0.0 ? std::numeric_limits<double>::infinity() : 0.0;
  }
};

// What a replay has read of the reference already, until the live row that belongs to it came.
struct HandedOver {
  std::optional<std::uint32_t> layer;
  std::span<const std::byte> key;
  std::span<const std::byte> value;
  std::optional<std::uint64_t> step;
  format::StepStats stats;
  std::span<const std::byte> delta;
};

// K and V of one layer of the reference's prompt.
struct PromptLayer {
  std::span<const std::byte> key;
  std::span<const std::byte> value;
};

// Consecutive positions of one head on both sides.
struct HeadBlock {
  std::span<const std::byte> live;
  std::span<const std::byte> recorded;

  [[nodiscard]] bool equal() const {
    return live.size() == recorded.size() &&
           std::memcmp(live.data(), recorded.data(), live.size()) == 0;
  }
};

void require_handed(std::size_t actual, std::uint64_t expected) {
  if (actual == expected) return;
  throw_misuse("a reference's row was handed over with " + std::to_string(actual) +
               " bytes where its shape makes " + std::to_string(expected));
}

bool measures_noise(const format::RecordingHeader& reference, const ComparisonOptions& options) {
  const HeldLogits held = held_logits(reference);
  return show_noise(held, options.live_logits.value_or(held));
}

// What the layers compute in, by the type of their K/V; 8 bits are a way to keep them.
DType layer_dtype(const format::Geometry& geometry) {
  const DType dtype = geometry.layer(0).value_dtype;
  return element_size(dtype) > 1 ? dtype : DType::kFloat32;
}

// The one with fewer bits of significand.
DType coarser(DType a, DType b) { return mantissa_bits(b) < mantissa_bits(a) ? b : a; }

void require_size(std::size_t actual, std::uint64_t expected, const std::string& what) {
  if (actual != expected) {
    throw_incompatible(what + ": the compared row has " + std::to_string(actual) +
                       " bytes where the reference's shape makes " + std::to_string(expected));
  }
}

}  // namespace

struct RowComparator::Impl {
  Impl(const format::RowSource& source, ComparisonOptions comparison_options)
      : reference(source),
        geometry(source.header().geometry),
        live_geometry(comparison_options.live_geometry.value_or(geometry)),
        token_options{.reference_logits_dtype = source.header().logits_dtype,
                      .live_logits_dtype = comparison_options.live_logits_dtype.value_or(
                          source.header().logits_dtype),
                      .layer_dtype = coarser(layer_dtype(geometry), layer_dtype(live_geometry)),
                      .bounds = comparison_options.bounds,
                      .vocab_size = source.header().vocab_size,
                      .measures_noise = measures_noise(source.header(), comparison_options)},
        num_steps(source.num_steps()),
        has_prefill_kv(source.has_prefill_kv()),
        has_step_kv(source.has_step_kv()),
        entries(list_entries(live_geometry, geometry)) {
    const std::vector<std::uint32_t> heads = heads_per_layer(geometry);
    comparison.prefill_kv = KvProfile(heads, comparison_options.block_positions);
    comparison.step_kv = KvProfile(heads, comparison_options.block_positions);
    comparison.recorded_prefill_rows = has_prefill_kv ? source.header().prompt_length : 0;
    comparison.recorded_step_rows = has_step_kv ? num_steps : 0;
    comparison.bounds = token_options.bounds;
    comparison.tokens.reserve(num_steps + 1);
    comparison.live_tokens.reserve(num_steps + 1);
  }

  // As it was handed over, else read now.
  PromptLayer recorded_layer(std::uint32_t layer, std::uint64_t positions) {
    const LayerGeometry& shape = geometry.layer(layer);
    const std::uint64_t key_bytes = shape.key_bytes() * positions;
    const std::uint64_t value_bytes = shape.value_bytes() * positions;
    const bool handed = std::exchange(handed_over.layer, std::nullopt) == layer;
    if (handed) {
      require_handed(handed_over.key.size(), key_bytes);
      require_handed(handed_over.value.size(), value_bytes);
      return {handed_over.key, handed_over.value};
    }
    // Grown for the first layer, kept for the others.
    reference_key.resize(key_bytes);
    reference_value.resize(value_bytes);
    reference.read_prefill_layer(layer, reference_key, reference_value);
    return {reference_key, reference_value};
  }

  // Likewise; `delta` is set where K/V is compared.
  format::StepStats recorded_step(std::uint64_t step, bool with_kv,
                                  std::span<const std::byte>& delta) {
    const bool handed = std::exchange(handed_over.step, std::nullopt) == step;
    if (handed) {
      require_handed(handed_over.delta.size(), geometry.delta_bytes());
      delta = handed_over.delta;
      return std::move(handed_over.stats);
    }
    if (with_kv) reference_delta.resize(geometry.delta_bytes());
    delta = reference_delta;
    return reference.read_step(
        step, with_kv ? std::span<std::byte>(reference_delta) : std::span<std::byte>());
  }

  void compare_statistics(std::uint64_t index, const format::StepStats& recorded,
                          const format::StepStats& live, bool same_kv) {
    const TokenComparison& token = comparison.tokens.emplace_back(
        compare_token(index, recorded, live, token_options, candidates));
    if (!comparison.first_bit_difference && !(same_kv && token.logits_equal)) {
      comparison.first_bit_difference = index;
    }
  }

  // The prefill's token, and those of the steps.
  void judge_stretches() {
    const std::size_t prefill = std::min<std::size_t>(comparison.tokens.size(), 1);
    const std::span tokens(comparison.tokens);
    const std::span<const std::vector<FlipCandidate>> deltas(candidates);
    judge_noise(tokens.first(prefill), deltas.first(prefill), token_options);
    judge_noise(tokens.subspan(prefill), deltas.subspan(prefill), token_options);
    candidates = {};
  }

  // Positions [first, first + rows.size()) of one head; adds each position's sums to
  // its row.
  void compare_rows(const RowEntry& entry, std::uint32_t head, std::uint64_t first,
                    const HeadBlock& block, std::span<RowSums> rows) {
    const std::size_t live_bytes = entry.live_row_bytes();
    const std::size_t recorded_bytes = entry.reference_row_bytes();
    for (std::size_t i = 0; i < rows.size(); ++i) {
      compare_elements(entry.live_dtype, block.live.subspan(i * live_bytes, live_bytes),
                       entry.reference_dtype,
                       block.recorded.subspan(i * recorded_bytes, recorded_bytes), error);
      comparison.prefill_kv.add(entry.kind, entry.layer, head, first + i, error);
      rows[i].add(error);
    }
  }

  // A block of positions, one part per head.
  void compare_block(const RowEntry& entry, std::uint64_t first, std::span<const HeadBlock> heads,
                     std::span<RowSums> rows) {
    // Blocks that are equal in all heads, the usual case on the recording device,
    // are one long row per head: their rows' errors are 0 whatever the reference is.
    const bool equal = entry.live_dtype == entry.reference_dtype &&
                       std::all_of(heads.begin(), heads.end(), std::mem_fn(&HeadBlock::equal));
    for (std::uint32_t head = 0; head < heads.size(); ++head) {
      if (equal) {
        compare_elements(entry.live_dtype, heads[head].live, entry.reference_dtype,
                         heads[head].recorded, error);
        if (error.nonfinite == 0) {
          comparison.prefill_kv.add(entry.kind, entry.layer, head, first + rows.size() - 1, error);
          continue;
        }
      }
      compare_rows(entry, head, first, heads[head], rows);
    }
  }

  // live, recorded: [heads, positions, dim].
  void compare_prompt(const RowEntry& entry, std::span<const std::byte> live,
                      std::span<const std::byte> recorded) {
    KvProfile& profile = comparison.prefill_kv;
    const std::uint64_t positions = reference.header().prompt_length;
    std::vector<RowSums> rows(positions);
    std::vector<HeadBlock> heads(entry.heads);
    for (std::uint64_t first = 0; first < positions; first += profile.block_positions()) {
      const std::uint64_t count = std::min(profile.block_positions(), positions - first);
      for (std::uint32_t head = 0; head < entry.heads; ++head) {
        const auto part = [&](std::span<const std::byte> bytes, std::size_t row_bytes) {
          return bytes.subspan((head * positions + first) * row_bytes, count * row_bytes);
        };
        heads[head] = {.live = part(live, entry.live_row_bytes()),
                       .recorded = part(recorded, entry.reference_row_bytes())};
      }
      compare_block(entry, first, heads, std::span(rows).subspan(first, count));
    }
    for (std::uint64_t i = 0; i < positions; ++i) {
      profile.set_row_error(entry.kind, entry.layer, i, rows[i].relative_l2());
    }
  }

  // Returns whether every element is bitwise equal.
  bool compare_delta(std::uint64_t step, std::span<const std::byte> live,
                     std::span<const std::byte> recorded) {
    KvProfile& profile = comparison.step_kv;
    bool equal = true;
    for (const RowEntry& entry : entries) {
      RowSums row;
      for (std::uint32_t head = 0; head < entry.heads; ++head) {
        const std::size_t live_bytes = entry.live_row_bytes();
        const std::size_t recorded_bytes = entry.reference_row_bytes();
        compare_elements(
            entry.live_dtype, live.subspan(entry.live_offset + head * live_bytes, live_bytes),
            entry.reference_dtype,
            recorded.subspan(entry.reference_offset + head * recorded_bytes, recorded_bytes),
            error);
        equal &= error.bitwise_equal();
        profile.add(entry.kind, entry.layer, head, step, error);
        row.add(error);
      }
      profile.set_row_error(entry.kind, entry.layer, step, row.relative_l2());
    }
    return equal;
  }

  const format::RowSource& reference;
  const Geometry geometry;
  const Geometry live_geometry;
  TokenOptions token_options;
  std::uint64_t num_steps;
  bool has_prefill_kv;
  bool has_step_kv;
  std::vector<RowEntry> entries;
  HandedOver handed_over;
  std::vector<std::byte> reference_delta;
  std::vector<std::byte> reference_key;
  std::vector<std::byte> reference_value;
  StretchCandidates candidates;  // of each compared token
  KvError error;                 // of one row after the other, for its memory
  bool same_context = true;
  RowComparison comparison;
  format::RowEnd row_end;
};

RowComparator::RowComparator(const format::RowSource& reference, ComparisonOptions options)
    : impl_(std::make_unique<Impl>(reference, std::move(options))) {}

RowComparator::~RowComparator() = default;

format::RowSink::Needs RowComparator::needs() const {
  return {.prefill_kv = impl_->has_prefill_kv, .step_kv = impl_->has_step_kv, .final_kv = false};
}

void RowComparator::on_prefill_layer(std::uint32_t layer, std::span<const std::byte> key,
                                     std::span<const std::byte> value) {
  if (!impl_->has_prefill_kv) return;
  const std::uint64_t positions = impl_->reference.header().prompt_length;
  const LayerGeometry& live = impl_->live_geometry.layer(layer);
  require_size(key.size(), live.key_bytes() * positions,
               "prompt K of layer " + std::to_string(layer));
  require_size(value.size(), live.value_bytes() * positions,
               "prompt V of layer " + std::to_string(layer));
  const PromptLayer recorded = impl_->recorded_layer(layer, positions);
  impl_->compare_prompt(impl_->entries[2 * std::size_t{layer}], key, recorded.key);
  impl_->compare_prompt(impl_->entries[2 * std::size_t{layer} + 1], value, recorded.value);
}

void RowComparator::on_reference_layer(std::uint32_t layer, std::span<const std::byte> key,
                                       std::span<const std::byte> value) {
  impl_->handed_over.layer = layer;
  impl_->handed_over.key = key;
  impl_->handed_over.value = value;
}

void RowComparator::on_reference_step(std::uint64_t step, const format::StepStats& stats,
                                      std::span<const std::byte> delta) {
  impl_->handed_over.step = step;
  impl_->handed_over.stats = stats;
  impl_->handed_over.delta = delta;
}

void RowComparator::on_prefill_end(const format::StepStats& stats) {
  impl_->comparison.live_tokens.push_back(stats.token);
  impl_->compare_statistics(0, impl_->reference.prefill_stats(), stats,
                            impl_->comparison.prefill_kv.total().bitwise_equal());
  // The prompt's K/V may be large and is not needed again.
  impl_->reference_key = {};
  impl_->reference_value = {};
}

void RowComparator::on_step(std::uint64_t step, const format::StepStats& stats,
                            std::span<const std::byte> delta) {
  impl_->comparison.live_tokens.push_back(stats.token);
  // The reference ended earlier, or the row went on from another token.
  if (step >= impl_->num_steps || !impl_->same_context) return;
  const bool compare_kv = impl_->has_step_kv && !delta.empty();
  if (compare_kv) {
    require_size(delta.size(), impl_->live_geometry.delta_bytes(),
                 "K/V of step " + std::to_string(step));
  }
  std::span<const std::byte> recorded_delta;
  const format::StepStats recorded = impl_->recorded_step(step, compare_kv, recorded_delta);
  impl_->same_context = stats.input_token == recorded.input_token;
  if (!impl_->same_context) return;
  const bool same_kv = !compare_kv || impl_->compare_delta(step, delta, recorded_delta);
  impl_->compare_statistics(step + 1, recorded, stats, same_kv);
}

void RowComparator::on_final_layer(std::uint32_t /*layer*/, std::span<const std::byte> /*key*/,
                                   std::span<const std::byte> /*value*/) {}

void RowComparator::on_end(const format::RowEnd& end) {
  const std::uint64_t compared_tokens = impl_->comparison.tokens.size();
  // Steps that the live side never delivered count too.
  impl_->comparison.uncompared_steps = impl_->num_steps + 1 - compared_tokens;
  impl_->judge_stretches();
  impl_->row_end = end;
}

const RowComparison& RowComparator::result() const { return impl_->comparison; }

const format::RowEnd& RowComparator::end() const { return impl_->row_end; }

}  // namespace kvtool::analysis
