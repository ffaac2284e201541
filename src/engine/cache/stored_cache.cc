#include "engine/cache/stored_cache.h"

#include <algorithm>
#include <string>

#include "kvtool/base/error.h"

namespace kvtool::engine {

StoredCache::StoredCache(const RowLayout& layout, const BatchShape& shape, at::Device device)
    : layout_(layout),
      shape_(&shape),
      rows_(shape.rows()),
      capacity_(shape.capacity()),
      device_(device),
      attention_(shape, device),
      filled_(layout.num_layers()) {}

void StoredCache::clear(const BatchShape& shape) {
  if (shape.rows() != rows_ || shape.capacity() != capacity_) {
    throw_misuse(name() + " of " + std::to_string(rows_) + " rows of " + std::to_string(capacity_) +
                 " positions cannot be one of " + std::to_string(shape.rows()) + " rows of " +
                 std::to_string(shape.capacity()));
  }
  shape_ = &shape;
  attention_ = PaddedAttention(shape, device_);
  if (selector_) selector_->clear(shape);
  filled_.begin();
  pass_ = {};
  end_ = 0;
}

void StoredCache::check_room(SlotRange slots) const {
  if (slots.end() <= shape_->capacity()) return;
  throw_misuse(name() + " has room for " + std::to_string(shape_->capacity()) +
               " positions and holds " + std::to_string(end_) + ": " + std::to_string(slots.count) +
               " from position " + std::to_string(slots.first) + " on do not fit");
}

void StoredCache::begin(SlotRange slots) {
  note(slots);
  pass_ = slots;
  filled_.begin();
}

void StoredCache::end() { filled_.end(); }

at::Tensor StoredCache::attend(const AttentionCall& call) {
  filled_.mark(call.layer);
  take_in(call);
  return attend_held(call);
}

at::Tensor StoredCache::attend_held(const AttentionCall& call) {
  if (selector_) count_steps(call);
  if (chooses(call)) return attend_chosen(call);
  const AttentionParams params = selector_ ? selector_->narrowed(call) : params_of(call);
  const std::int64_t first = attention_.first_visible(params, pass_);
  return attention_.attend(call.q, params, pass_, seen(call.layer, {first, pass_.end() - first}));
}

bool StoredCache::chooses(const AttentionCall& call) const {
  if (!selector_ || pass_.first < shape_->padded_length()) return false;
  for (std::int64_t row = 0; row < shape_->rows(); ++row) {
    if (selector_->chooses(call, pass_.end() - 1 - shape_->padding(row))) return true;
  }
  return false;
}

at::Tensor StoredCache::attend_chosen(const AttentionCall& call) {
  const LayerKv all = seen(call.layer, {0, pass_.end()});
  const at::Tensor& q = call.q;
  at::Tensor output =
      at::empty({q.size(0), q.size(2), q.size(1), call.v.size(3)}, call.v.options());
  const std::int64_t together = shape_->is_padded() ? 1 : shape_->rows();
  for (std::int64_t row = 0; row < shape_->rows(); row += together) {
    const std::int64_t padding = shape_->padding(row);
    for (std::int64_t query = 0; query < pass_.count; ++query) {
      const std::int64_t position = pass_.first + query - padding;
      const auto visible = [&](const at::Tensor& rows) {
        return rows.narrow(0, row, together).narrow(2, padding, position + 1);
      };
      output.narrow(0, row, together)
          .narrow(1, query, 1)
          .copy_(selector_
                     ->attend_step(call, {row,
                                          position,
                                          q.narrow(0, row, together).narrow(2, query, 1),
                                          {visible(all.k), visible(all.v)}})
                     .transpose(1, 2));
    }
  }
  return output;
}

void StoredCache::count_steps(const AttentionCall& call) const {
  const std::int64_t first = std::max(pass_.first, shape_->padded_length());
  for (std::int64_t row = 0; row < shape_->rows(); ++row) {
    selector_->count_steps(call, first - shape_->padding(row), pass_.end() - first);
  }
}

cache::CacheUse StoredCache::use_with(std::uint64_t bytes) const {
  if (selector_) bytes += selector_->bytes();
  cache::CacheUse use = use_of(layout_, *shape_, end_, bytes, device_);
  if (!selector_) return use;
  selector_->add_to(use);
  for (std::int64_t row = 0; row < shape_->rows(); ++row) {
    use.evicted_rows += selector_->evicted_rows(end_ - shape_->padding(row));
  }
  return use;
}

std::int64_t StoredCache::positions_in(SlotRange slots) const {
  std::int64_t positions = 0;
  for (std::int64_t row = 0; row < shape_->rows(); ++row) {
    positions +=
        std::max<std::int64_t>(0, slots.end() - std::max(slots.first, shape_->padding(row)));
  }
  return positions;
}

void StoredCache::note(SlotRange slots) {
  check_room(slots);
  end_ = std::max(end_, slots.end());
  if (selector_) selector_->forget_from(slots.first);
}

}  // namespace kvtool::engine
