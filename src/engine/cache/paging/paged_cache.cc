#include "engine/cache/paging/paged_cache.h"

#include <algorithm>

#include "engine/cache/paging/partial_attention.h"

namespace kvtool::engine {

PagedCache::PagedCache(const cache::PagedSettings& settings, std::int64_t frames,
                       const RowLayout& layout, const BatchShape& shape, at::Device device)
    : StoredCache(layout, shape, device),
      store_(settings, frames, layout, shape, device),
      emulates_link_(settings.link_gigabytes.has_value() && device.is_cpu()),
      kept_(static_cast<std::size_t>(store_.pages()), false) {}

SlotRange PagedCache::positions_of_row(std::int64_t row, SlotRange slots) const {
  const std::int64_t padding = shape().padding(row);
  const std::int64_t first = std::max<std::int64_t>(0, slots.first - padding);
  return {first, std::max<std::int64_t>(0, slots.end() - padding - first)};
}

void PagedCache::clear(const BatchShape& shape) {
  StoredCache::clear(shape);
  const std::lock_guard lock(mutex_);
  store_.clear();
  written_.clear();
}

// What was written since the last pass, injected rows included, goes to host memory once its page
// is whole.
void PagedCache::begin(SlotRange slots) {
  StoredCache::begin(slots);
  const std::lock_guard lock(mutex_);
  const auto is_whole = [&](const PageName& name) {
    return (name.page + 1) * store_.page_size() <= slots.first - shape().padding(name.row);
  };
  std::vector<PageName> open;
  for (const PageName& name : written_) {
    if (is_whole(name)) {
      store_.save(name);
    } else {
      open.push_back(name);
    }
  }
  written_ = std::move(open);
}

void PagedCache::make_frames(std::int64_t layer, std::int64_t row, SlotRange positions) {
  if (positions.count == 0) return;
  const std::int64_t last = (positions.end() - 1) / store_.page_size();
  const std::int64_t first =
      std::max(positions.first / store_.page_size(), last - store_.frames() + 1);
  // A pass of many may need the frame of a page that is not whole yet.
  for (std::int64_t page = 0; positions.count > 1 && page < first; ++page) {
    store_.save({layer, row, page});
  }
  for (std::int64_t page = first; page <= last; ++page) {
    if (store_.frame_of({layer, row, page}) < 0) {
      store_.fetch({layer, row, page}, kept_, pass().first);
    }
  }
}

void PagedCache::take_in(const AttentionCall& call) {
  const std::lock_guard lock(mutex_);
  for (std::int64_t row = 0; row < shape().rows(); ++row) {
    const SlotRange positions = positions_of_row(row, pass());
    make_frames(call.layer, row, positions);
    const std::int64_t first = positions.first + shape().padding(row) - pass().first;
    const auto own = [&](const at::Tensor& rows) {
      return rows.select(0, row).narrow(1, first, positions.count);
    };
    write_row({call.layer, row, positions}, {own(call.k), own(call.v)});
  }
}

// where: positions, not slots.
void PagedCache::write_row(const LayerRows& where, const LayerKv& kv) {
  if (where.slots.count == 0) return;
  store_.write(where.layer, where.row, where.slots, kv);
  const std::int64_t last = (where.slots.end() - 1) / store_.page_size();
  for (std::int64_t page = where.slots.first / store_.page_size(); page <= last; ++page) {
    const PageName name{where.layer, where.row, page};
    if (store_.frame_of(name) >= 0) written_.push_back(name);
  }
}

LayerKv PagedCache::seen(std::int64_t layer, SlotRange slots) {
  const auto zeros = [&](const RowLayout::Entry& entry) {
    return at::zeros({shape().rows(), entry.heads, slots.count, entry.dim},
                     at::TensorOptions(entry.dtype).device(device()));
  };
  const LayerKv rows{zeros(layout().key(layer)), zeros(layout().value(layer))};
  const std::lock_guard lock(mutex_);
  for (std::int64_t row = 0; row < shape().rows(); ++row) {
    const SlotRange positions = positions_of_row(row, slots);
    const std::int64_t first = positions.first + shape().padding(row) - slots.first;
    store_.read(layer, row, positions, row_slots(rows, row, {first, positions.count}));
  }
  return rows;
}

at::Tensor PagedCache::attend_held(const AttentionCall& call) {
  if (pass().count == 1) return attend_step(call);
  if (pass().first == 0)
    return padded_attention().attend(call.q, params_of(call), pass(), {call.k, call.v});
  return StoredCache::attend_held(call);
}

PagedCache::RowPages PagedCache::pages_of(const AttentionCall& call, std::int64_t row) {
  RowPages pages;
  pages.end_position = pass().end() - shape().padding(row);
  if (call.sliding_window > 0) {
    pages.first_position = std::max<std::int64_t>(0, pages.end_position - call.sliding_window);
  }
  pages.first = pages.first_position / store_.page_size();
  pages.last = (pages.end_position - 1) / store_.page_size();
  pages.shown.assign(static_cast<std::size_t>(store_.pages()), false);
  for (std::int64_t page = pages.first; page <= pages.last; ++page) {
    const PageName name{call.layer, row, page};
    if (store_.frame_of(name) < 0) {
      pages.missing.push_back(page);
      continue;
    }
    store_.use(name);
    pages.shown[static_cast<std::size_t>(page)] = true;
  }
  return pages;
}

void PagedCache::fetch_some(std::int64_t layer, std::int64_t row, RowPages& pages) {
  std::fill(pages.shown.begin(), pages.shown.end(), false);
  // The page that is written stays.
  kept_[static_cast<std::size_t>(pages.last)] = true;
  const auto count = std::min(static_cast<std::ptrdiff_t>(store_.frames() - 1),
                              static_cast<std::ptrdiff_t>(pages.missing.size()));
  const auto end = pages.missing.begin() + count;
  for (auto page = pages.missing.begin(); page != end; ++page) {
    store_.fetch({layer, row, *page}, kept_, pass().first);
    kept_[static_cast<std::size_t>(*page)] = true;
    pages.shown[static_cast<std::size_t>(*page)] = true;
  }
  pages.missing.erase(pages.missing.begin(), end);
  std::fill(kept_.begin(), kept_.end(), false);
}

at::Tensor PagedCache::attend_step(const AttentionCall& call) {
  PartialAttention attention(call.q, params_of(call));
  const LayerKv& frames = store_.frames_of(call.layer);
  const std::lock_guard lock(mutex_);
  std::vector<RowPages> rows;
  for (std::int64_t row = 0; row < shape().rows(); ++row) rows.push_back(pages_of(call, row));
  attention.add(frames.k, frames.v, hidden(call.layer, rows));
  const auto is_done = [](const RowPages& pages) { return pages.missing.empty(); };
  while (!std::all_of(rows.begin(), rows.end(), is_done)) {
    for (std::int64_t row = 0; row < shape().rows(); ++row) {
      fetch_some(call.layer, row, rows[static_cast<std::size_t>(row)]);
    }
    attention.add(frames.k, frames.v, hidden(call.layer, rows));
  }
  return attention.result().transpose(1, 2).contiguous();
}

const at::Tensor& PagedCache::hidden(std::int64_t layer, std::span<const RowPages> rows) {
  const std::int64_t size = store_.page_size();
  std::vector<std::uint8_t> bytes;
  bytes.reserve(rows.size() * static_cast<std::size_t>(store_.frames() * size));
  for (std::size_t row = 0; row < rows.size(); ++row) {
    const RowPages& pages = rows[row];
    for (std::int64_t frame = 0; frame < store_.frames(); ++frame) {
      const std::int64_t page = store_.page_in(layer, static_cast<std::int64_t>(row), frame);
      const bool shown = page >= 0 && pages.shown[static_cast<std::size_t>(page)];
      for (std::int64_t position = page * size; position < (page + 1) * size; ++position) {
        bytes.push_back(static_cast<std::uint8_t>(!shown || position < pages.first_position ||
                                                  position >= pages.end_position));
      }
    }
  }
  // Layers mostly show the same.
  if (bytes == hidden_bytes_ && hidden_.defined()) return hidden_;
  hidden_bytes_ = std::move(bytes);
  hidden_ =
      at::from_blob(hidden_bytes_.data(), {shape().rows(), 1, 1, store_.frames() * size}, at::kByte)
          .to(at::kBool)
          .to(device());
  return hidden_;
}

void PagedCache::read(const LayerRows& where, const LayerKv& kv) const {
  const std::lock_guard lock(mutex_);
  store_.read(where.layer, where.row, positions_of_row(where.row, where.slots), kv);
}

void PagedCache::write(const LayerRows& where, const LayerKv& kv) {
  note(where.slots);
  const std::lock_guard lock(mutex_);
  write_row({where.layer, where.row, positions_of_row(where.row, where.slots)}, kv);
}

cache::CacheUse PagedCache::use() const {
  const std::lock_guard lock(mutex_);
  cache::CacheUse use =
      use_of(layout(), shape(), held_end(), store_.device_bytes() + store_.host_bytes(), device());
  use.places = {{device().str(), store_.device_bytes(), store_.device_bytes()},
                {"host", store_.host_bytes(), store_.host_bytes()}};
  use.moved_bytes = store_.moved_bytes();
  use.paged_out = store_.paged_out();
  use.read_back = store_.read_back();
  use.emulated_link = emulates_link_;
  return use;
}

}  // namespace kvtool::engine
