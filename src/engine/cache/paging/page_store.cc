#include "engine/cache/paging/page_store.h"

#include <xxhash.h>

#include <algorithm>
#include <string>
#include <utility>

#include "engine/host_memory.h"
#include "engine/stopwatch.h"
#include "kvtool/base/error.h"

namespace kvtool::engine {
namespace {

constexpr double kGigabyte = 1e9;
constexpr double kNanosecond = 1e-9;
constexpr std::int64_t kNone = -1;

// One of `count` that stand side by side in [B, heads, lines, width]: [heads, lines / count,
// width].
PageParts one_of(const PageParts& all, std::int64_t row, std::int64_t index, std::int64_t count) {
  PageParts one;
  for (const at::Tensor& part : all) {
    const std::int64_t lines = part.size(2) / count;
    one.push_back(part.select(0, row).narrow(1, index * lines, lines));
  }
  return one;
}

// Copies to pageable or from the device's memory may be under way.
void wait_for(at::Device device) {
  if (!device.is_cpu()) current_stream(device).synchronize();
}

// Nothing of a mover whose copies others wait for.
cache::PageTraffic no_traffic(const PageMover& mover) {
  cache::PageTraffic none;
  if (mover.waits_on_host()) return none;
  none.late.reset();
  none.miss_seconds = none.late_seconds = none.write_seconds = std::nullopt;
  return none;
}

void add_lap(std::optional<double>& seconds, Stopwatch& watch) {
  if (seconds) *seconds += kNanosecond * static_cast<double>(watch.lap());
}

std::optional<double> link_of(const cache::PagedSettings& settings) {
  if (!settings.link_gigabytes) return std::nullopt;
  return *settings.link_gigabytes * kGigabyte;
}

}  // namespace

PageStore::PageStore(const cache::PagedSettings& settings, const Room& room, PageFormat& format,
                     std::int64_t layers, std::int64_t rows, at::Device device)
    : settings_(settings),
      page_(static_cast<std::int64_t>(settings.page)),
      frames_(room.frames),
      pages_(room.pages),
      rows_(rows),
      check_(settings.check),
      format_(format),
      on_(device),
      mover_(device, link_of(settings)) {
  const at::TensorOptions host = at::TensorOptions(at::kCPU).pinned_memory(!device.is_cpu());
  for (std::int64_t layer = 0; layer < layers; ++layer) {
    device_.push_back(format.allocate(layer, rows, frames_ * page_, device));
    host_.push_back(format.allocate(layer, rows, pages_ * page_, host));
  }
  tables_.resize(static_cast<std::size_t>(layers * rows_));
  clear();
}

void PageStore::clear() {
  for (Table& table : tables_) {
    for (const Arrival& arrival : std::exchange(table.arriving, {})) mover_.wait(arrival.ticket);
  }
  // Frames are attended before they are full.
  for (const PageParts& layer : device_) {
    for (const at::Tensor& part : layer) part.view(at::kByte).zero_();
  }
  const auto pages = static_cast<std::size_t>(pages_);
  for (Table& table : tables_) {
    table.frame_of.assign(pages, kNone);
    table.in_frame.assign(static_cast<std::size_t>(frames_), kNone);
    table.on_host.assign(pages, false);
    table.was_out.assign(pages, false);
    if (check_) table.checksums.assign(pages, 0);
    table.residency = cache::make_residency(settings_.residency, settings_.prediction);
    table.ahead.clear();
  }
  cleared_bytes_ = mover_.moved_bytes();
  written_bytes_ = paged_out_ = read_back_ = 0;
  traffic_ = no_traffic(mover_);
}

PageParts PageStore::in_frame(const PageName& name, std::int64_t frame) const {
  return one_of(device_[static_cast<std::size_t>(name.layer)], name.row, frame, frames_);
}

PageParts PageStore::on_host(const PageName& name) const {
  return one_of(host_[static_cast<std::size_t>(name.layer)], name.row, name.page, pages_);
}

std::int64_t PageStore::free_frame(const PageName& name, const std::vector<bool>& kept) {
  Table& own = table(name.layer, name.row);
  for (std::int64_t frame = 0; frame < frames_; ++frame) {
    if (own.in_frame[static_cast<std::size_t>(frame)] == kNone) return frame;
  }
  const cache::PageId out = own.residency->victim([&](cache::PageId page) {
    return !kept[page] && own.on_host[page] && !is_arriving(own, static_cast<std::int64_t>(page));
  });
  const std::int64_t frame = own.frame_of[out];
  own.residency->leave(out);
  own.frame_of[out] = kNone;
  own.was_out[out] = true;
  ++paged_out_;
  return frame;
}

std::int64_t PageStore::fetch(const PageName& name, const std::vector<bool>& kept,
                              std::int64_t step) {
  Table& own = table(name.layer, name.row);
  const auto page = static_cast<std::size_t>(name.page);
  const std::int64_t frame = free_frame(name, kept);
  if (own.on_host[page]) {
    Stopwatch watch;
    mover_.move(copy_back(name, frame, step));
    add_lap(traffic_.miss_seconds, watch);
    if (own.was_out[page]) ++read_back_;
  }
  enter(name, frame);
  return frame;
}

PageCopy PageStore::copy_back(const PageName& name, std::int64_t frame, std::int64_t step) const {
  PageCopy copy{on_host(name), in_frame(name, frame)};
  if (!check_) return copy;
  const std::uint64_t sum =
      table(name.layer, name.row).checksums[static_cast<std::size_t>(name.page)];
  copy.check = [target = copy.to, sum, name, step] {
    if (checksum(target) == sum) return;
    throw_internal("page " + std::to_string(name.page) + " of layer " + std::to_string(name.layer) +
                   ", input " + std::to_string(name.row) +
                   " of the batch, came back from host memory with other bytes in step " +
                   std::to_string(step));
  };
  return copy;
}

void PageStore::enter(const PageName& name, std::int64_t frame) {
  Table& own = table(name.layer, name.row);
  own.frame_of[static_cast<std::size_t>(name.page)] = frame;
  own.in_frame[static_cast<std::size_t>(frame)] = name.page;
  own.residency->enter(static_cast<cache::PageId>(name.page));
}

void PageStore::fetch_ahead(std::int64_t layer, std::int64_t row, const std::vector<bool>& kept,
                            std::int64_t step) {
  Table& own = table(layer, row);
  const auto may_go = [&](cache::PageId page) { return !kept[page] && own.on_host[page]; };
  const auto free = static_cast<std::uint64_t>(std::ranges::count(own.in_frame, kNone));
  for (const cache::PageId page : own.residency->wanted(free, may_go)) {
    const PageName name{layer, row, static_cast<std::int64_t>(page)};
    const std::int64_t frame = free_frame(name, kept);
    own.arriving.push_back({name.page, mover_.move_ahead(copy_back(name, frame, step))});
    enter(name, frame);
    ++traffic_.prefetched;
    traffic_.wasted_bytes += page_bytes(name);  // until it is used
  }
}

void PageStore::arrive(std::int64_t layer) {
  for (std::int64_t row = 0; row < rows_; ++row) {
    Table& own = table(layer, row);
    for (const Arrival& arrival : std::exchange(own.arriving, {})) {
      mover_.wait(arrival.ticket);
      own.ahead.push_back({arrival.page, {}, arrival.is_late});
    }
  }
}

void PageStore::arrive_for_step(std::int64_t layer) {
  // Each of them before one is waited for.
  bool waits = false;
  for (std::int64_t row = 0; row < rows_; ++row) {
    for (Arrival& arrival : table(layer, row).arriving) {
      arrival.is_late = !PageMover::is_made(arrival.ticket);
      waits = waits || arrival.is_late;
    }
  }
  Stopwatch watch;
  arrive(layer);
  if (waits) add_lap(traffic_.late_seconds, watch);
}

bool PageStore::is_arriving(const Table& table, std::int64_t page) {
  return std::ranges::find(table.arriving, page, &Arrival::page) != table.arriving.end();
}

std::uint64_t PageStore::page_bytes(const PageName& name) const {
  return part_bytes(on_host(name), page_);
}

bool PageStore::demand(const PageName& name, bool is_inner) {
  Table& own = table(name.layer, name.row);
  ++traffic_.demands;
  if (is_inner) ++traffic_.inner_demands;
  if (frame_of(name) == kNone) return false;
  own.residency->use(static_cast<cache::PageId>(name.page));
  const auto came = std::ranges::find(own.ahead, name.page, &Arrival::page);
  if (came != own.ahead.end()) {
    ++traffic_.prefetch_hits;
    traffic_.wasted_bytes -= page_bytes(name);
    if (came->is_late) {
      ++*traffic_.late;
      return true;
    }
  }
  ++traffic_.hits;
  if (is_inner) ++traffic_.inner_hits;
  return true;
}

void PageStore::save(const PageName& name) {
  Table& own = table(name.layer, name.row);
  const auto page = static_cast<std::size_t>(name.page);
  const std::int64_t frame = own.frame_of[page];
  if (own.on_host[page] || frame == kNone) return;
  const PageParts source = in_frame(name, frame);
  mover_.move({source, on_host(name)});
  if (check_) own.checksums[page] = checksum(source);
  own.on_host[page] = true;
}

std::uint64_t PageStore::checksum(const PageParts& page) {
  XXH64_hash_t sum = 0;
  for (const at::Tensor& part : page) {
    const at::Tensor bytes = at::empty(part.sizes(), part.options().device(at::kCPU));
    copy_on_cpu(part.cpu(), bytes);
    sum = XXH3_64bits_withSeed(bytes.const_data_ptr(), bytes.nbytes(), sum);
  }
  return sum;
}

std::uint64_t PageStore::nbytes(const std::vector<PageParts>& layers) {
  std::uint64_t bytes = 0;
  for (const PageParts& parts : layers) {
    for (const at::Tensor& part : parts) bytes += part.nbytes();
  }
  return bytes;
}

template <typename Visit>
void PageStore::each_page(SlotRange positions, const Visit& visit) const {
  for (std::int64_t position = positions.first; position < positions.end();) {
    const std::int64_t page = position / page_;
    const std::int64_t count = std::min(positions.end(), (page + 1) * page_) - position;
    visit(page, SlotRange{position - page * page_, count}, position - positions.first);
    position += count;
  }
}

void PageStore::read(std::int64_t layer, std::int64_t row, SlotRange positions,
                     const LayerKv& kv) const {
  mover_.synchronize();
  each_page(positions, [&](std::int64_t page, SlotRange within, std::int64_t at) {
    const PageName name{layer, row, page};
    const bool is_arriving_now = is_arriving(table(layer, row), page);
    const std::int64_t frame = is_arriving_now ? kNone : frame_of(name);
    format_.decode(layer, row, frame == kNone ? on_host(name) : in_frame(name, frame), within,
                   positions_of(kv, at, within.count));
  });
  wait_for(on_);
}

void PageStore::write(std::int64_t layer, std::int64_t row, SlotRange positions,
                      const LayerKv& kv) {
  Table& own = table(layer, row);
  if (positions.first == 0) format_.measure(layer, row, kv);
  each_page(positions, [&](std::int64_t page, SlotRange within, std::int64_t at) {
    const PageName name{layer, row, page};
    const LayerKv rows = positions_of(kv, at, within.count);
    const std::int64_t frame = frame_of(name);
    const auto index = static_cast<std::size_t>(page);
    if (frame != kNone) {
      format_.encode(layer, row, rows, in_frame(name, frame), within);
      own.on_host[index] = false;
      return;
    }
    const PageParts target = on_host(name);
    format_.encode(layer, row, rows, target, within);
    if (!on_.is_cpu()) written_bytes_ += part_bytes(target, within.count);
    wait_for(on_);
    if (check_) own.checksums[index] = checksum(target);
    own.on_host[index] = true;
  });
}

std::uint64_t PageStore::part_bytes(const PageParts& page, std::int64_t positions) const {
  std::uint64_t bytes = 0;
  for (const at::Tensor& part : page) bytes += part.nbytes();
  return bytes * static_cast<std::uint64_t>(positions) / static_cast<std::uint64_t>(page_);
}

}  // namespace kvtool::engine
