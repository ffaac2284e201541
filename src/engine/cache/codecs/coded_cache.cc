#include "engine/cache/codecs/coded_cache.h"

#include <algorithm>

#include "engine/cache/codecs/coded_rows.h"

namespace kvtool::engine {
namespace {

// The same view of every plane.
template <typename View>
std::vector<at::Tensor> each(const std::vector<at::Tensor>& planes, const View& view) {
  std::vector<at::Tensor> views;
  views.reserve(planes.size());
  for (const at::Tensor& plane : planes) views.push_back(view(plane));
  return views;
}

std::vector<at::Tensor> slots_of(const std::vector<at::Tensor>& planes, SlotRange slots) {
  return each(planes, [&](const at::Tensor& plane) {
    return plane.narrow(plane.dim() - 2, slots.first, slots.count);
  });
}

std::vector<at::Tensor> row_of(const std::vector<at::Tensor>& planes, std::int64_t row) {
  return each(planes, [row](const at::Tensor& plane) { return plane.select(0, row); });
}

std::uint64_t plane_bytes(const at::Tensor& plane) {
  const bool shared = plane.numel() > 0 && plane.stride(-2) == 0;
  return plane.nbytes() / static_cast<std::uint64_t>(shared ? plane.size(-2) : 1);
}

// Of [entries, B, heads, capacity, width].
std::vector<at::Tensor> slot_of(const std::vector<at::Tensor>& planes, std::int64_t slot) {
  return each(planes, [slot](const at::Tensor& plane) { return plane.select(3, slot); });
}

}  // namespace

CodedCache::CodedCache(std::unique_ptr<RowCodec> codec, const RowLayout& layout,
                       const BatchShape& shape, at::Device device)
    : StoredCache(layout, shape, device),
      codec_(std::move(codec)),
      work_(layout, shape.rows(), shape.capacity(), device) {
  for (const RowLayout::Group& group : layout.groups()) codec_->check(group.dtype);
  allocate_storage();
  allocate_wide_space();
}

void CodedCache::allocate_storage() {
  for (const RowLayout::Group& group : layout().groups()) {
    Planes planes;
    for (const RowCodec::Plane& plane : codec_->planes(group.dim)) {
      planes.push_back(new_plane(*codec_, plane,
                                 {group.entries, shape().rows(), group.heads, shape().capacity()},
                                 device()));
    }
    storage_.push_back(std::move(planes));
  }
  for (std::int64_t layer = 0; layer < layout().num_layers(); ++layer) {
    const auto view = [&](const RowLayout::Entry& entry) {
      return row_of(storage_[entry.group], entry.index_in_group);
    };
    layers_.push_back({view(layout().key(layer)), view(layout().value(layer))});
  }
}

void CodedCache::clear(const BatchShape& shape) {
  StoredCache::clear(shape);
  applied_rows_ = 0;
  for (std::size_t group = 0; group < storage_.size(); ++group) {
    const std::vector<RowCodec::Plane> planes = codec_->planes(layout().groups()[group].dim);
    for (std::size_t index = 0; index < planes.size(); ++index) {
      if (planes[index].shared) storage_[group][index].narrow(-2, 0, 1).fill_(codec_->new_shared());
    }
  }
}

std::int64_t CodedCache::wide_bytes(const RowLayout::Entry& entry) const {
  if (entry.dtype == at::kFloat) return 0;
  return shape().rows() * entry.heads * shape().capacity() * entry.dim *
         static_cast<std::int64_t>(sizeof(float));
}

void CodedCache::allocate_wide_space() {
  std::int64_t most = 0;
  for (std::int64_t layer = 0; layer < layout().num_layers(); ++layer) {
    most = std::max({most, wide_bytes(layout().key(layer)), wide_bytes(layout().value(layer))});
  }
  wide_space_ = at::empty({most}, at::TensorOptions(at::kByte).device(device()));
}

void CodedCache::take_in(const AttentionCall& call) {
  const CodedLayer& kept = layers_[static_cast<std::size_t>(call.layer)];
  for (std::int64_t row = 0; pass().first == 0 && row < shape().rows(); ++row) {
    const SlotRange slots{shape().padding(row), pass().end() - shape().padding(row)};
    if (slots.count > 0) measure({call.layer, row, slots}, row_slots({call.k, call.v}, row, slots));
  }
  encode(call.k, layout().key(call.layer), slots_of(kept.k, pass()));
  encode(call.v, layout().value(call.layer), slots_of(kept.v, pass()));
  note_applied(pass(), positions_in(pass()));
}

LayerKv CodedCache::seen(std::int64_t layer, SlotRange slots) {
  const CodedLayer& kept = layers_[static_cast<std::size_t>(layer)];
  const LayerKv rows = work_.of_layer(layer);
  return {decode_slots(kept.k, layout().key(layer), rows.k, slots),
          decode_slots(kept.v, layout().value(layer), rows.v, slots)};
}

at::Tensor CodedCache::decode_slots(const Planes& planes, const RowLayout::Entry& entry,
                                    const at::Tensor& space, SlotRange slots) const {
  const auto part = [slots](const at::Tensor& all) {
    return all.narrow(2, slots.first, slots.count);
  };
  const at::Tensor rows = part(space);
  const at::Tensor wide =
      entry.dtype == at::kFloat
          ? rows
          : part(wide_space_.narrow(0, 0, wide_bytes(entry)).view(at::kFloat).view(space.sizes()));
  codec_->decode(slots_of(planes, slots), rows, wide);
  return rows;
}

void CodedCache::encode(const at::Tensor& rows, const RowLayout::Entry& entry,
                        const Planes& planes) const {
  codec_->encode(rows.to(device(), entry.dtype), planes);
}

void CodedCache::decode(const Planes& planes, const at::Tensor& rows) const {
  codec_->decode(planes, rows,
                 at::empty(rows.sizes(), at::TensorOptions(at::kFloat).device(device())));
}

void CodedCache::read(const LayerRows& where, const LayerKv& kv) const {
  const CodedLayer& kept = layers_[static_cast<std::size_t>(where.layer)];
  decode(slots_of(row_of(kept.k, where.row), where.slots), kv.k);
  decode(slots_of(row_of(kept.v, where.row), where.slots), kv.v);
}

void CodedCache::write(const LayerRows& where, const LayerKv& kv) {
  check_room(where.slots);
  const CodedLayer& kept = layers_[static_cast<std::size_t>(where.layer)];
  measure(where, kv);
  encode(kv.k, layout().key(where.layer), slots_of(row_of(kept.k, where.row), where.slots));
  encode(kv.v, layout().value(where.layer), slots_of(row_of(kept.v, where.row), where.slots));
  note_applied(where.slots, where.slots.count);
}

void CodedCache::measure(const LayerRows& where, const LayerKv& kv) const {
  if (where.slots.first != shape().padding(where.row)) return;
  const CodedLayer& kept = layers_[static_cast<std::size_t>(where.layer)];
  codec_->measure(kv.k.to(device(), layout().key(where.layer).dtype), row_of(kept.k, where.row));
  codec_->measure(kv.v.to(device(), layout().value(where.layer).dtype), row_of(kept.v, where.row));
}

LayerKv CodedCache::as_kept(const LayerRows& where, const LayerKv& kv) const {
  const bool is_prompt = where.slots.first == shape().padding(where.row);
  const CodedLayer& layer = layers_[static_cast<std::size_t>(where.layer)];
  const auto kept = [&](const at::Tensor& rows, const RowLayout::Entry& entry, const Planes& own) {
    const at::Tensor shared = shared_of(own, entry);
    return round_trip(*codec_, rows.to(device(), entry.dtype),
                      shared.defined() ? shared.select(0, where.row) : shared, is_prompt);
  };
  return {kept(kv.k, layout().key(where.layer), layer.k),
          kept(kv.v, layout().value(where.layer), layer.v)};
}

at::Tensor CodedCache::shared_of(const Planes& planes, const RowLayout::Entry& entry) const {
  std::size_t index = 0;
  for (const RowCodec::Plane& plane : codec_->planes(entry.dim)) {
    if (plane.shared) return planes[index].narrow(-2, 0, 1);
    ++index;
  }
  return {};
}

void CodedCache::read_slot(std::int64_t slot, const at::Tensor& deltas) const {
  for (std::size_t index = 0; index < storage_.size(); ++index) {
    decode(slot_of(storage_[index], slot), layout().group_view(deltas, layout().groups()[index]));
  }
}

void CodedCache::write_slot(std::int64_t slot, const at::Tensor& deltas, const RowLayout& from,
                            std::span<const std::int64_t> rows) {
  if (!rows.empty() || !from.groups_match(layout())) {
    KvCache::write_slot(slot, deltas, from, rows);
    return;
  }
  check_room({slot, 1});
  for (std::size_t index = 0; index < storage_.size(); ++index) {
    codec_->encode(from.group_view(deltas, from.groups()[index]).to(layout().groups()[index].dtype),
                   slot_of(storage_[index], slot));
  }
  note_applied({slot, 1}, positions_in({slot, 1}) * layout().num_layers());
}

void CodedCache::note_applied(SlotRange slots, std::int64_t rows) {
  note(slots);
  applied_rows_ += static_cast<std::uint64_t>(rows);
}

cache::CacheUse CodedCache::use() const {
  std::uint64_t bytes = work_.nbytes() + wide_space_.nbytes();
  for (const Planes& planes : storage_) {
    for (const at::Tensor& plane : planes) bytes += plane_bytes(plane);
  }
  cache::CacheUse use = use_with(bytes);
  use.applied_rows = applied_rows_;
  return use;
}

}  // namespace kvtool::engine
