#include "engine/cache/paging/page_store.h"

#include <xxhash.h>

#include <algorithm>
#include <string>
#include <thread>

#include "engine/host_memory.h"
#include "kvtool/base/error.h"

namespace kvtool::engine {
namespace {

constexpr double kGigabyte = 1e9;
constexpr std::int64_t kNone = -1;

void copy_page_rows(const LayerKv& from, const LayerKv& to) {
  to.k.copy_(from.k, /*non_blocking=*/true);
  to.v.copy_(from.v, /*non_blocking=*/true);
}

// Copies to pageable or from the device's memory may be under way.
void wait_for(at::Device device) {
  if (!device.is_cpu()) current_stream(device).synchronize();
}

}  // namespace

PageStore::PageStore(const cache::PagedSettings& settings, std::int64_t frames,
                     const RowLayout& layout, const BatchShape& shape, at::Device device)
    : settings_(settings),
      page_(static_cast<std::int64_t>(settings.page)),
      frames_(frames),
      pages_(
          static_cast<std::int64_t>(settings.pages(static_cast<std::uint64_t>(shape.capacity())))),
      rows_(shape.rows()),
      check_(settings.check),
      device_(layout, shape.rows(), frames * page_, device),
      host_(layout, shape.rows(), pages_ * page_, at::kCPU, RowBuffer::Fill::kNothing,
            /*pinned=*/!device.is_cpu()) {
  if (settings.link_gigabytes && device.is_cpu()) {
    bytes_per_second_ = *settings.link_gigabytes * kGigabyte;
  }
  tables_.resize(static_cast<std::size_t>(layout.num_layers() * rows_));
  clear();
}

void PageStore::clear() {
  device_.zero();  // frames are attended before they are full
  const auto pages = static_cast<std::size_t>(pages_);
  for (Table& table : tables_) {
    table.frame_of.assign(pages, kNone);
    table.in_frame.assign(static_cast<std::size_t>(frames_), kNone);
    table.on_host.assign(pages, false);
    table.was_out.assign(pages, false);
    if (check_) table.checksums.assign(pages, 0);
    table.residency = cache::make_residency(settings_.residency, settings_.prediction);
  }
  moved_bytes_ = paged_out_ = read_back_ = 0;
}

LayerKv PageStore::in_frame(const PageName& name, std::int64_t frame) const {
  return row_slots(device_.layer(name.layer), name.row, {frame * page_, page_});
}

LayerKv PageStore::on_host(const PageName& name) const {
  return row_slots(host_.layer(name.layer), name.row, {name.page * page_, page_});
}

std::int64_t PageStore::free_frame(const PageName& name, const std::vector<bool>& kept) {
  Table& own = table(name.layer, name.row);
  for (std::int64_t frame = 0; frame < frames_; ++frame) {
    if (own.in_frame[static_cast<std::size_t>(frame)] == kNone) return frame;
  }
  const cache::PageId out =
      own.residency->victim([&](cache::PageId page) { return !kept[page] && own.on_host[page]; });
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
  const LayerKv target = in_frame(name, frame);
  if (own.on_host[page]) {
    move(on_host(name), target);
    if (check_ && checksum(target) != own.checksums[page]) {
      throw_internal("page " + std::to_string(name.page) + " of layer " +
                     std::to_string(name.layer) + ", input " + std::to_string(name.row) +
                     " of the batch, came back from host memory with other bytes in step " +
                     std::to_string(step));
    }
    if (own.was_out[page]) ++read_back_;
  }
  own.frame_of[page] = frame;
  own.in_frame[static_cast<std::size_t>(frame)] = name.page;
  own.residency->enter(page);
  return frame;
}

void PageStore::use(const PageName& name) {
  table(name.layer, name.row).residency->use(static_cast<cache::PageId>(name.page));
}

void PageStore::save(const PageName& name) {
  Table& own = table(name.layer, name.row);
  const auto page = static_cast<std::size_t>(name.page);
  const std::int64_t frame = own.frame_of[page];
  if (own.on_host[page] || frame == kNone) return;
  const LayerKv source = in_frame(name, frame);
  move(source, on_host(name));
  if (check_) own.checksums[page] = checksum(source);
  own.on_host[page] = true;
}

void PageStore::move(const LayerKv& from, const LayerKv& to) {
  const auto started = std::chrono::steady_clock::now();
  copy_page_rows(from, to);
  const std::uint64_t bytes = from.k.nbytes() + from.v.nbytes();
  moved_bytes_ += bytes;
  if (!bytes_per_second_) return;
  const std::chrono::duration<double> least(static_cast<double>(bytes) / *bytes_per_second_);
  std::this_thread::sleep_until(
      started + std::chrono::duration_cast<std::chrono::steady_clock::duration>(least));
}

std::uint64_t PageStore::checksum(const LayerKv& page) const {
  XXH64_hash_t sum = 0;
  for (const at::Tensor& part : {page.k, page.v}) {
    const at::Tensor bytes = part.cpu().contiguous();
    sum = XXH3_64bits_withSeed(bytes.const_data_ptr(), bytes.nbytes(), sum);
  }
  return sum;
}

void PageStore::damage_host_copy(const PageName& name) {
  const at::Tensor page = on_host(name).v;
  page.select(0, 0).select(0, 0).select(0, 0).add_(1.0);
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
  each_page(positions, [&](std::int64_t page, SlotRange within, std::int64_t at) {
    const PageName name{layer, row, page};
    const std::int64_t frame = frame_of(name);
    const LayerKv source = frame == kNone ? on_host(name) : in_frame(name, frame);
    copy_page_rows(positions_of(source, within.first, within.count),
                   positions_of(kv, at, within.count));
  });
  wait_for(device_.layer(0).k.device());
}

void PageStore::write(std::int64_t layer, std::int64_t row, SlotRange positions,
                      const LayerKv& kv) {
  Table& own = table(layer, row);
  each_page(positions, [&](std::int64_t page, SlotRange within, std::int64_t at) {
    const PageName name{layer, row, page};
    const LayerKv rows = positions_of(kv, at, within.count);
    const std::int64_t frame = frame_of(name);
    const auto index = static_cast<std::size_t>(page);
    if (frame != kNone) {
      copy_page_rows(rows, positions_of(in_frame(name, frame), within.first, within.count));
      own.on_host[index] = false;
      return;
    }
    const LayerKv target = positions_of(on_host(name), within.first, within.count);
    copy_page_rows(rows, target);
    if (!rows.k.is_cpu()) moved_bytes_ += rows.k.nbytes() + rows.v.nbytes();
    wait_for(rows.k.device());
    if (check_) own.checksums[index] = checksum(on_host(name));
    own.on_host[index] = true;
  });
}

}  // namespace kvtool::engine
