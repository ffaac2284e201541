#include "engine/cache/kv_cache.h"

#include <algorithm>
#include <string>

#include "kvtool/base/error.h"

namespace kvtool::engine {

void KvCache::read_slot(std::int64_t slot, const at::Tensor& deltas) const {
  for (std::int64_t row = 0; row < deltas.size(0); ++row) {
    for (std::int64_t layer = 0; layer < layout().num_layers(); ++layer) {
      read({layer, row, {slot, 1}}, layout().layer_rows(deltas.narrow(0, row, 1), layer));
    }
  }
}

void KvCache::write_slot(std::int64_t slot, const at::Tensor& deltas, const RowLayout& from,
                         std::span<const std::int64_t> rows) {
  for (std::int64_t row = 0; row < deltas.size(0); ++row) {
    if (!rows.empty() && std::find(rows.begin(), rows.end(), row) == rows.end()) continue;
    for (std::int64_t layer = 0; layer < layout().num_layers(); ++layer) {
      write({layer, row, {slot, 1}}, from.layer_rows(deltas.narrow(0, row, 1), layer));
    }
  }
}

LayerKv KvCache::as_kept(const LayerRows& where, const LayerKv& kv) const {
  return {kv.k.to(layout().key(where.layer).dtype), kv.v.to(layout().value(where.layer).dtype)};
}

void KvCache::write_slots(std::int64_t row, std::int64_t first_slot, const at::Tensor& deltas,
                          const RowLayout& from) {
  const SlotRange slots{first_slot, deltas.size(0)};
  for (std::int64_t layer = 0; layer < layout().num_layers(); ++layer) {
    write({layer, row, slots}, from.layer_rows(deltas, layer));
  }
}

std::optional<SlotRange> KvCache::settled(std::int64_t) const {
  return is_append_only() ? std::optional(SlotRange{}) : std::nullopt;
}

LayerKv KvCache::as_settled(std::int64_t, const LayerKv& kv) const { return kv; }

cache::CacheUse use_of(const RowLayout& layout, const BatchShape& shape, std::int64_t end,
                       std::uint64_t physical_bytes, at::Device device) {
  cache::CacheUse use;
  use.capacity = static_cast<std::uint64_t>(shape.capacity());
  std::uint64_t positions = 0;
  for (std::int64_t row = 0; row < shape.rows(); ++row) {
    const auto held =
        static_cast<std::uint64_t>(std::max<std::int64_t>(0, end - shape.padding(row)));
    positions += held;
    use.length = std::max(use.length, held);
  }
  use.logical_bytes = positions * layout.geometry().position_bytes();
  use.physical_bytes = physical_bytes;
  use.peak_bytes = physical_bytes;
  use.places = {{device.str(), physical_bytes, physical_bytes}};
  return use;
}

void check_final_state(const format::RowSink::Needs& needs, const KvCache& cache) {
  if (cache.is_append_only() || !needs.final_kv || needs.step_kv) return;
  throw_usage(
      "this cache changes rows after it has written them, so its final state does not hold what "
      "each step saw: a recording of the final state alone cannot be made of it");
}

void check_row_type(std::string_view name, at::ScalarType dtype) {
  if (dtype == at::kFloat || dtype == at::kHalf || dtype == at::kBFloat16) return;
  throw_incompatible("the cache " + std::string(name) +
                     " keeps rows of 16 or 32 bits, this model makes " + at::toString(dtype) +
                     ": use the cache contiguous");
}

}  // namespace kvtool::engine
