#include "engine/cache/paging/paged_cache.h"

#include <algorithm>
#include <limits>
#include <string>

#include "engine/stopwatch.h"
#include "kvtool/base/error.h"

namespace kvtool::engine {
namespace {

std::optional<cache::KiviSettings> groups_of(const cache::CacheSpec& store) {
  if (store.policy() != "kivi") return std::nullopt;
  return cache::kivi_settings(store);
}

}  // namespace

PagedCache::PagedCache(const cache::PagedSettings& settings, std::int64_t frames,
                       const RowLayout& layout, const BatchShape& shape, at::Device device,
                       std::unique_ptr<PageSelector> selector)
    : StoredCache(layout, shape, device),
      settings_(settings),
      groups_(groups_of(settings.store)),
      format_(make_page_format(settings.store, layout, shape,
                               frames * static_cast<std::int64_t>(settings.page), device)),
      store_(settings,
             {frames, static_cast<std::int64_t>(
                          settings.pages(static_cast<std::uint64_t>(shape.capacity())))},
             *format_, layout.num_layers(), shape.rows(), device),
      chooser_(selector.get()),
      kept_(static_cast<std::size_t>(store_.pages()), false) {
  if (selector) select_with(std::move(selector));
  if (groups_) {
    const auto most = static_cast<std::int64_t>(groups_->ring_positions());
    recent_ = std::make_unique<RecentRows>(layout, shape.rows(), std::min(shape.capacity(), most),
                                           device);
    settled_.assign(static_cast<std::size_t>(shape.rows()), 0);
  }
  peak_bytes_ = device_bytes();
}

void PagedCache::clear(const BatchShape& shape) {
  const std::lock_guard lock(mutex_);
  StoredCache::clear(shape);
  store_.clear();
  format_->clear();
  if (recent_) recent_->clear();
  settled_.assign(settled_.size(), 0);
  written_.clear();
  applied_rows_ = most_visible_ = 0;
  write_seconds_ = 0.0;
  peak_bytes_ = device_bytes();
}

void PagedCache::begin(SlotRange slots) {
  const std::lock_guard lock(mutex_);
  check_room(slots);
  masks_.clear();
  std::int64_t first_whole = slots.first;
  for (std::int64_t row = 0; recent_ && row < shape().rows(); ++row) {
    settle(row, slots);
    first_whole = std::min(first_whole, shape().padding(row) + paged_end(row));
  }
  if (recent_) recent_->begin(slots, first_whole);
  save_whole_pages(slots);
  peak_bytes_ = std::max(peak_bytes_, device_bytes());
  StoredCache::begin(slots);
}

void PagedCache::settle(std::int64_t row, SlotRange next) {
  const std::int64_t padding = shape().padding(row);
  const std::int64_t done = paged_end(row);
  const auto target = static_cast<std::int64_t>(
      groups_->settled_in_pass(no_padding(next.first - padding), no_padding(next.end() - padding)));
  if (target <= done) return;
  const SlotRange positions{done, target - done};
  for (std::int64_t layer = 0; layer < layout().num_layers(); ++layer) {
    store_.arrive_for_step(layer);
    make_frames(layer, row, positions, next.first);
    write_row({layer, row, positions},
              recent_->rows({layer, row, {padding + positions.first, positions.count}}));
  }
  settled_[static_cast<std::size_t>(row)] = target;
}

void PagedCache::save_whole_pages(SlotRange next) {
  const auto is_whole = [&](const PageName& name) {
    const std::int64_t end = std::min(paged_end(name.row), next.first - shape().padding(name.row));
    return (name.page + 1) * store_.page_size() <= end;
  };
  std::vector<PageName> open;
  Stopwatch watch;
  for (const PageName& name : written_) {
    if (is_whole(name)) {
      store_.save(name);
    } else {
      open.push_back(name);
    }
  }
  written_ = std::move(open);
  if (next.count == 1) write_seconds_ += 1e-9 * static_cast<double>(watch.lap());
}

void PagedCache::make_frames(std::int64_t layer, std::int64_t row, SlotRange positions,
                             std::int64_t step) {
  if (positions.count == 0) return;
  const std::int64_t last = (positions.end() - 1) / store_.page_size();
  const std::int64_t first =
      std::max(positions.first / store_.page_size(), last - store_.frames() + 1);
  // A pass of many may need the frame of a page that is not whole yet.
  for (std::int64_t page = 0; positions.count > 1 && page < first; ++page) {
    store_.save({layer, row, page});
  }
  for (std::int64_t page = first; page <= last; ++page) {
    if (store_.frame_of({layer, row, page}) < 0) store_.fetch({layer, row, page}, kept_, step);
  }
}

void PagedCache::take_in(const AttentionCall& call) {
  const std::lock_guard lock(mutex_);
  store_.arrive_for_step(call.layer);
  if (recent_) {
    recent_->take_in(call.layer, pass(), {call.k, call.v});
    return;
  }
  for (std::int64_t row = 0; row < shape().rows(); ++row) {
    const SlotRange positions = positions_of_row(row, pass());
    make_frames(call.layer, row, positions, pass().first);
    const std::int64_t first = positions.first + shape().padding(row) - pass().first;
    write_row({call.layer, row, positions},
              row_slots({call.k, call.v}, row, {first, positions.count}));
  }
}

// where: positions, not slots.
void PagedCache::write_row(const LayerRows& where, const LayerKv& kv) {
  if (where.slots.count == 0) return;
  store_.write(where.layer, where.row, where.slots, kv);
  if (settings_.store != cache::CacheSpec()) {
    applied_rows_ += static_cast<std::uint64_t>(where.slots.count);
  }
  const std::int64_t last = (where.slots.end() - 1) / store_.page_size();
  for (std::int64_t page = where.slots.first / store_.page_size(); page <= last; ++page) {
    const PageName name{where.layer, where.row, page};
    if (store_.frame_of(name) >= 0) written_.push_back(name);
  }
}

void PagedCache::read_row(std::int64_t layer, std::int64_t row, SlotRange positions,
                          const LayerKv& kv) const {
  const std::int64_t end = std::clamp(paged_end(row), positions.first, positions.end());
  const SlotRange paged{positions.first, end - positions.first};
  if (paged.count > 0) store_.read(layer, row, paged, positions_of(kv, 0, paged.count));
  const SlotRange whole{end + shape().padding(row), positions.end() - end};
  if (whole.count == 0) return;
  copy_rows(recent_->rows({layer, row, whole}), positions_of(kv, paged.count, whole.count));
}

LayerKv PagedCache::seen(std::int64_t layer, SlotRange slots) {
  const auto zeros = [&](const RowLayout::Entry& entry) {
    return at::zeros({shape().rows(), entry.heads, slots.count, entry.dim},
                     at::TensorOptions(entry.dtype).device(device()));
  };
  const LayerKv rows{zeros(layout().key(layer)), zeros(layout().value(layer))};
  for (std::int64_t row = 0; row < shape().rows(); ++row) {
    const SlotRange positions = positions_of_row(row, slots);
    const std::int64_t first = positions.first + shape().padding(row) - slots.first;
    read_row(layer, row, positions, row_slots(rows, row, {first, positions.count}));
  }
  return rows;
}

at::Tensor PagedCache::attend_held(const AttentionCall& call) {
  const std::lock_guard lock(mutex_);
  if (pass().count == 1) return attend_step(call);
  const bool sees_own_rows = recent_ || settings_.store == cache::CacheSpec();
  if (pass().first == 0 && sees_own_rows) {
    return padded_attention().attend(call.q, params_of(call), pass(), {call.k, call.v});
  }
  return StoredCache::attend_held(call);
}

at::Tensor PagedCache::attend_step(const AttentionCall& call) {
  if (chooser_ != nullptr) count_steps(call);
  PartialAttention attention(call.q, params_of(call));
  const std::vector<Sight> rows = sights(call);
  std::vector<RowPages> pages;
  for (std::int64_t row = 0; row < shape().rows(); ++row) {
    pages.push_back(pages_of(call.layer, row, rows[static_cast<std::size_t>(row)]));
    observe(call.layer, row, pages.back());
  }
  attend_pages(call, pages, attention);
  if (recent_) attend_recent(call, rows, attention);
  for (std::int64_t row = 0; row < shape().rows(); ++row) {
    store_.end_step(call.layer, row);
    fetch_ahead(call.layer, row, pages[static_cast<std::size_t>(row)]);
  }
  return attention.result().transpose(1, 2).contiguous();
}

void PagedCache::observe(std::int64_t layer, std::int64_t row, const RowPages& pages) {
  const Sight& sight = pages.sight;
  if (sight.shares.empty()) return;
  std::vector<cache::PageScore> step;
  for (std::int64_t page = sight.first / store_.page_size(); page * store_.page_size() < pages.end;
       ++page) {
    step.push_back({static_cast<cache::PageId>(page), sight.shares[static_cast<std::size_t>(page)],
                    sight.sees(page)});
  }
  store_.observe(layer, row, step);
}

void PagedCache::fetch_ahead(std::int64_t layer, std::int64_t row, const RowPages& pages) {
  if (pages.sight.shares.empty() || pages.end == 0) return;
  kept_[last_page(pages)] = true;
  store_.fetch_ahead(layer, row, kept_, pass().first);
  kept_[last_page(pages)] = false;
}

bool PagedCache::Sight::sees(std::int64_t page) const {
  if (!chosen) return true;
  return std::any_of(chosen->begin(), chosen->end(), [&](const std::vector<bool>& head) {
    return head[static_cast<std::size_t>(page)];
  });
}

std::vector<PagedCache::Sight> PagedCache::sights(const AttentionCall& call) {
  std::vector<Sight> rows;
  for (std::int64_t row = 0; row < shape().rows(); ++row) {
    Sight sight;
    sight.end = std::max<std::int64_t>(0, pass().end() - shape().padding(row));
    if (call.sliding_window > 0)
      sight.first = std::max<std::int64_t>(0, sight.end - call.sliding_window);
    rows.push_back(std::move(sight));
  }
  if (!chooses(call)) return rows;
  const std::size_t together = shape().is_padded() ? 1 : rows.size();
  for (std::size_t row = 0; row < rows.size(); row += together) {
    if (!chooser_->chooses(call, rows[row].end - 1)) continue;
    choose(call, std::span(rows).subspan(row, together), static_cast<std::int64_t>(row));
  }
  return rows;
}

void PagedCache::choose(const AttentionCall& call, std::span<Sight> rows, std::int64_t first) {
  const auto count = static_cast<std::int64_t>(rows.size());
  const auto keys = [&](std::int64_t position, std::int64_t positions) {
    const RowLayout::Entry& entry = layout().key(call.layer);
    const at::Tensor all = at::empty({count, entry.heads, positions, entry.dim},
                                     at::TensorOptions(entry.dtype).device(device()));
    for (std::int64_t row = 0; row < count; ++row) {
      const LayerKv own = layout().empty_rows(call.layer, positions, device());
      read_row(call.layer, first + row, {position, positions}, own);
      all.select(0, row).copy_(own.k);
    }
    return all;
  };
  const PageSelector::Choice choice =
      chooser_->choose(call, {first, rows.front().end - 1, call.q.narrow(0, first, count), keys});
  const std::int64_t size = store_.page_size();
  const auto pages = static_cast<std::int64_t>((rows.front().end + size - 1) / size);
  const at::Tensor best = choice.pages.cpu();
  at::Tensor shares;
  if (store_.is_observing()) shares = chooser_->shares(call, choice);
  const auto chosen = best.accessor<std::int64_t, 3>();
  for (std::int64_t row = 0; row < count; ++row) {
    std::vector<std::vector<bool>> heads;
    for (std::int64_t head = 0; head < best.size(1); ++head) {
      std::vector<bool> sees(static_cast<std::size_t>(pages), false);
      for (std::int64_t page = 0; page < pages; ++page) {
        sees[static_cast<std::size_t>(page)] =
            page * size < static_cast<std::int64_t>(choice.split.sinks_end) ||
            page >= static_cast<std::int64_t>(choice.split.recent_page);
      }
      for (std::int64_t rank = 0; rank < best.size(2); ++rank) {
        sees[static_cast<std::size_t>(chosen[row][head][rank])] = true;
      }
      heads.push_back(std::move(sees));
    }
    Sight& sight = rows[static_cast<std::size_t>(row)];
    sight.chosen = std::move(heads);
    if (!shares.defined() || shares.size(1) == 0) continue;
    sight.shares.assign(static_cast<std::size_t>(pages), 1.0);
    const float* share = shares[row].const_data_ptr<float>();
    for (std::int64_t candidate = 0; candidate < shares.size(1); ++candidate) {
      sight.shares[choice.split.first_candidate + static_cast<std::size_t>(candidate)] =
          share[candidate];
    }
  }
}

PagedCache::RowPages PagedCache::pages_of(std::int64_t layer, std::int64_t row, Sight sight) {
  RowPages pages;
  pages.end = std::min(sight.end, paged_end(row));
  most_visible_ =
      std::max(most_visible_,
               static_cast<std::uint64_t>(std::max<std::int64_t>(0, pages.end - sight.first)));
  pages.shown.assign(static_cast<std::size_t>(store_.pages()), false);
  for (std::int64_t page = sight.first / store_.page_size(); page * store_.page_size() < pages.end;
       ++page) {
    if (!sight.sees(page)) continue;
    if (store_.demand({layer, row, page}, is_inner(sight, page))) {
      pages.shown[static_cast<std::size_t>(page)] = true;
    } else {
      pages.missing.push_back(page);
    }
  }
  pages.sight = std::move(sight);
  return pages;
}

bool PagedCache::is_inner(const Sight& sight, std::int64_t page) const {
  const std::uint64_t sinks = chooser_ != nullptr ? chooser_->budget().sinks() : 0;
  const std::uint64_t recent = chooser_ != nullptr ? chooser_->budget().recent() : 1;
  const auto last = static_cast<std::uint64_t>((sight.end - 1) / store_.page_size());
  const auto own = static_cast<std::uint64_t>(page);
  return own >= sinks && own + recent <= last;
}

void PagedCache::fetch_some(std::int64_t layer, std::int64_t row, RowPages& pages) {
  std::fill(pages.shown.begin(), pages.shown.end(), false);
  if (pages.missing.empty()) return;
  // The page that is written stays.
  kept_[last_page(pages)] = true;
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

void PagedCache::attend_pages(const AttentionCall& call, std::vector<RowPages>& rows,
                              PartialAttention& attention) {
  const auto shows_any = [](const RowPages& pages) {
    return std::find(pages.shown.begin(), pages.shown.end(), true) != pages.shown.end();
  };
  const auto lacks_any = [](const RowPages& pages) { return !pages.missing.empty(); };
  std::vector<Sight> sights;
  for (const RowPages& pages : rows) sights.push_back(pages.sight);
  const auto attend = [&] {
    const LayerKv frames = store_.shown(call.layer);
    attention.add(frames.k, frames.v,
                  hidden(sights, frames.k.size(1), store_.frames() * store_.page_size(),
                         blocks_in_frames(call.layer, rows)));
  };
  if (std::any_of(rows.begin(), rows.end(), shows_any)) attend();
  while (std::any_of(rows.begin(), rows.end(), lacks_any)) {
    for (std::int64_t row = 0; row < shape().rows(); ++row) {
      fetch_some(call.layer, row, rows[static_cast<std::size_t>(row)]);
    }
    attend();
  }
}

void PagedCache::attend_recent(const AttentionCall& call, std::span<const Sight> rows,
                               PartialAttention& attention) {
  std::int64_t first = pass().first;
  for (std::int64_t row = 0; row < shape().rows(); ++row) {
    const std::int64_t seen = std::max(paged_end(row), rows[static_cast<std::size_t>(row)].first);
    first = std::min(first, shape().padding(row) + seen);
  }
  recent_->each_piece({first, pass().end() - first}, [&](const RecentRows::Piece& piece) {
    const LayerKv own = piece.of_all(call.layer);
    attention.add(own.k, own.v,
                  hidden(rows, own.k.size(1), piece.slots.count, recent_blocks(rows, piece.slots)));
  });
}

std::vector<PagedCache::KeyBlock> PagedCache::blocks_in_frames(
    std::int64_t layer, const std::vector<RowPages>& rows) const {
  const std::int64_t size = store_.page_size();
  std::vector<KeyBlock> blocks;
  for (std::int64_t row = 0; row < shape().rows(); ++row) {
    const RowPages& pages = rows[static_cast<std::size_t>(row)];
    for (std::int64_t frame = 0; frame < store_.frames(); ++frame) {
      const std::int64_t page = store_.page_in(layer, row, frame);
      if (page < 0 || !pages.shown[static_cast<std::size_t>(page)]) continue;
      const std::int64_t first = std::max(page * size, pages.sight.first);
      const std::int64_t end = std::min((page + 1) * size, pages.end);
      if (first >= end) continue;
      blocks.push_back({row, frame * size + first - page * size, end - first, first});
    }
  }
  return blocks;
}

std::vector<PagedCache::KeyBlock> PagedCache::recent_blocks(std::span<const Sight> rows,
                                                            SlotRange slots) const {
  const std::int64_t size = store_.page_size();
  std::vector<KeyBlock> blocks;
  for (std::int64_t row = 0; row < shape().rows(); ++row) {
    const Sight& sight = rows[static_cast<std::size_t>(row)];
    const std::int64_t begin = slots.first - shape().padding(row);
    const std::int64_t end = std::min(begin + slots.count, sight.end);
    std::int64_t position = std::max({std::int64_t{0}, begin, sight.first, paged_end(row)});
    while (position < end) {
      const std::int64_t next = std::min(end, (position / size + 1) * size);
      blocks.push_back({row, position - begin, next - position, position});
      position = next;
    }
  }
  return blocks;
}

at::Tensor PagedCache::hidden(std::span<const Sight> rows, std::int64_t heads, std::int64_t keys,
                              std::vector<KeyBlock> blocks) {
  const bool chooses = std::any_of(rows.begin(), rows.end(),
                                   [](const Sight& sight) { return sight.chosen.has_value(); });
  if (!chooses) {
    heads = 1;
    for (const Mask& mask : masks_) {
      if (mask.keys == keys && mask.blocks == blocks) return mask.hidden;
    }
  }
  const at::Tensor hidden =
      at::ones({static_cast<std::int64_t>(rows.size()), heads, 1, keys}, at::kBool);
  bool* const all = hidden.mutable_data_ptr<bool>();
  for (const KeyBlock& block : blocks) {
    const Sight& sight = rows[static_cast<std::size_t>(block.row)];
    for (std::int64_t head = 0; head < heads; ++head) {
      if (!sight.sees(head, block.position / store_.page_size())) continue;
      std::fill_n(all + (block.row * heads + head) * keys + block.first, block.count, false);
    }
  }
  at::Tensor there = hidden.to(device());
  if (!chooses) masks_.push_back({keys, std::move(blocks), there});
  return there;
}

void PagedCache::read(const LayerRows& where, const LayerKv& kv) const {
  const std::lock_guard lock(mutex_);
  read_row(where.layer, where.row, positions_of_row(where.row, where.slots), kv);
}

void PagedCache::write(const LayerRows& where, const LayerKv& kv) {
  const std::lock_guard lock(mutex_);
  note(where.slots);
  store_.arrive(where.layer);
  if (!recent_) {
    write_row({where.layer, where.row, positions_of_row(where.row, where.slots)}, kv);
    return;
  }
  recent_->check_writable(where.slots, held_end(),
                          shape().padding(where.row) + paged_end(where.row), name());
  recent_->write(where, kv);
}

LayerKv PagedCache::as_kept(const LayerRows& where, const LayerKv& kv) const {
  if (recent_) return KvCache::as_kept(where, kv);
  const bool is_prompt = where.slots.first == shape().padding(where.row);
  if (kv.k.dim() == 3) return format_->as_kept(where.layer, where.row, kv, is_prompt);
  const LayerKv kept =
      format_->as_kept(where.layer, where.row, {kv.k.squeeze(0), kv.v.squeeze(0)}, is_prompt);
  return {kept.k.unsqueeze(0), kept.v.unsqueeze(0)};
}

std::optional<SlotRange> PagedCache::settled(std::int64_t positions) const {
  if (!groups_) return SlotRange{};
  return SlotRange{0, static_cast<std::int64_t>(groups_->settled(no_padding(positions)))};
}

LayerKv PagedCache::as_settled(std::int64_t layer, const LayerKv& kv) const {
  return recent_ ? format_->as_kept(layer, 0, kv, false) : kv;
}

cache::CacheUse PagedCache::use() const {
  const std::lock_guard lock(mutex_);
  cache::CacheUse use =
      use_of(layout(), shape(), held_end(), device_bytes() + store_.host_bytes(), device());
  use.peak_bytes = peak_bytes_ + store_.host_bytes();
  use.places = {{device().str(), device_bytes(), peak_bytes_},
                {"host", store_.host_bytes(), store_.host_bytes()}};
  use.moved_bytes = store_.moved_bytes();
  use.paged_out = store_.paged_out();
  use.read_back = store_.read_back();
  use.pages = store_.traffic();
  if (use.pages.write_seconds) use.pages.write_seconds = write_seconds_;
  use.emulated_link = settings_.link_gigabytes.has_value() && device().is_cpu();
  use.applied_rows = applied_rows_;
  if (chooser_ != nullptr) {
    chooser_->add_to(use);
  } else {
    use.most_visible_keys = most_visible_;
  }
  return use;
}

}  // namespace kvtool::engine
