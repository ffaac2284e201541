#include "engine/contiguous_cache.h"

#include <algorithm>
#include <string>

#include "engine/attention.h"
#include "kvtool/base/error.h"

namespace kvtool::engine {

ContiguousCache::ContiguousCache(const RowLayout& layout, const BatchShape& shape,
                                 at::Device device)
    : layout_(layout), shape_(shape), device_(device), filled_(layout.num_layers()) {
  for (const RowLayout::Group& group : layout_.groups()) {
    storage_.push_back(
        at::empty({group.entries, shape_.rows(), group.heads, shape_.capacity(), group.dim},
                  at::TensorOptions(group.dtype).device(device_)));
  }
  for (std::int64_t layer = 0; layer < layout_.num_layers(); ++layer) {
    const auto view = [&](const RowLayout::Entry& entry) {
      return storage_[entry.group].select(0, entry.index_in_group);
    };
    keys_.push_back(view(layout_.key(layer)));
    values_.push_back(view(layout_.value(layer)));
  }
}

void ContiguousCache::begin(std::int64_t first_slot, std::int64_t positions) {
  if (first_slot + positions > shape_.capacity()) {
    throw_environment("the cache of " + std::to_string(shape_.capacity()) + " positions is full");
  }
  first_slot_ = first_slot;
  positions_ = positions;
  filled_.begin();
}

void ContiguousCache::end() const { filled_.end(); }

at::Tensor ContiguousCache::attend(const AttentionCall& call) {
  filled_.mark(call.layer);
  const auto layer = static_cast<std::size_t>(call.layer);
  const at::Tensor& keys = keys_[layer];
  const at::Tensor& values = values_[layer];
  keys.narrow(2, first_slot_, positions_).copy_(call.k);
  values.narrow(2, first_slot_, positions_).copy_(call.v);
  const std::int64_t end = first_slot_ + positions_;
  if (first_slot_ == 0 && shape_.is_padded()) {
    return attend_prefill(call, keys.narrow(2, 0, end), values.narrow(2, 0, end));
  }
  const AttentionParams params{call.scale, call.sliding_window, call.softcap, call.sinks};
  return causal_attention(call.q, keys.narrow(2, 0, end), values.narrow(2, 0, end), params,
                          bias_for(call.q, end))
      .transpose(1, 2)
      .contiguous();
}

// A padded prompt is attended row by row without its padding: the fused causal
// kernel needs no mask, and padding costs and disturbs nothing. What padding
// positions return is zero and never read.
at::Tensor ContiguousCache::attend_prefill(const AttentionCall& call, const at::Tensor& keys,
                                           const at::Tensor& values) const {
  const AttentionParams params{call.scale, call.sliding_window, call.softcap, call.sinks};
  at::Tensor output =
      at::zeros({call.q.size(0), call.q.size(2), call.q.size(1), call.v.size(3)}, call.v.options());
  for (std::int64_t row = 0; row < shape_.rows(); ++row) {
    const std::int64_t first = shape_.padding(row);
    const std::int64_t count = shape_.prompt_length(row);
    const auto part = [&](const at::Tensor& tensor) {
      return tensor.narrow(0, row, 1).narrow(2, first, count);
    };
    output.narrow(0, row, 1)
        .narrow(1, first, count)
        .copy_(causal_attention(part(call.q), part(keys), part(values), params, std::nullopt)
                   .transpose(1, 2));
  }
  return output;
}

std::optional<at::Tensor> ContiguousCache::bias_for(const at::Tensor& q, std::int64_t positions) {
  if (!shape_.is_padded()) return std::nullopt;
  if (!bias_ || bias_->scalar_type() != q.scalar_type()) {
    bias_ = shape_.padding_bias(q.scalar_type(), device_);
  }
  return bias_->narrow(3, 0, positions);
}

at::Tensor ContiguousCache::key_rows(std::int64_t layer, std::int64_t row, std::int64_t first_slot,
                                     std::int64_t count) const {
  return keys_[static_cast<std::size_t>(layer)].select(0, row).narrow(1, first_slot, count);
}

at::Tensor ContiguousCache::value_rows(std::int64_t layer, std::int64_t row,
                                       std::int64_t first_slot, std::int64_t count) const {
  return values_[static_cast<std::size_t>(layer)].select(0, row).narrow(1, first_slot, count);
}

at::Tensor ContiguousCache::key_slot(std::int64_t layer, std::int64_t slot) const {
  return keys_[static_cast<std::size_t>(layer)].narrow(2, slot, 1);
}

at::Tensor ContiguousCache::value_slot(std::int64_t layer, std::int64_t slot) const {
  return values_[static_cast<std::size_t>(layer)].narrow(2, slot, 1);
}

void ContiguousCache::gather(const at::Tensor& deltas, std::int64_t slot) const {
  for (std::size_t index = 0; index < storage_.size(); ++index) {
    layout_.group_view(deltas, layout_.groups()[index]).copy_(storage_[index].select(3, slot));
  }
}

void ContiguousCache::inject(const at::Tensor& deltas, const RowLayout& layout, std::int64_t slot,
                             const std::vector<std::int64_t>& rows) {
  // Dimension 1 of both is the row.
  const auto overwrite = [&rows](const at::Tensor& target, const at::Tensor& source) {
    if (rows.empty()) {
      target.copy_(source);
      return;
    }
    for (const std::int64_t row : rows) target.select(1, row).copy_(source.select(1, row));
  };
  if (layout.groups_match(layout_)) {
    for (std::size_t index = 0; index < storage_.size(); ++index) {
      overwrite(storage_[index].select(3, slot), layout.group_view(deltas, layout.groups()[index]));
    }
    return;
  }
  for (std::int64_t layer = 0; layer < layout_.num_layers(); ++layer) {
    overwrite(key_slot(layer, slot).unsqueeze(0),
              layout.entry_view(deltas, layout.key(layer)).unsqueeze(0));
    overwrite(value_slot(layer, slot).unsqueeze(0),
              layout.entry_view(deltas, layout.value(layer)).unsqueeze(0));
  }
}

void ContiguousCache::inject_slots(const at::Tensor& deltas, const RowLayout& layout,
                                   std::int64_t row, std::int64_t first_slot) {
  const std::int64_t count = deltas.size(0);
  if (layout.groups_match(layout_)) {
    for (std::size_t index = 0; index < storage_.size(); ++index) {
      // [entries, slots, heads, dim] -> [entries, heads, slots, dim]
      storage_[index]
          .select(1, row)
          .narrow(2, first_slot, count)
          .copy_(layout.group_view(deltas, layout.groups()[index]).transpose(1, 2));
    }
    return;
  }
  for (std::int64_t layer = 0; layer < layout_.num_layers(); ++layer) {
    const auto rows_of = [&](const RowLayout::Entry& entry) {
      return layout.entry_view(deltas, entry).squeeze(2).transpose(0, 1);
    };
    key_rows(layer, row, first_slot, count).copy_(rows_of(layout.key(layer)));
    value_rows(layer, row, first_slot, count).copy_(rows_of(layout.value(layer)));
  }
}

}  // namespace kvtool::engine
