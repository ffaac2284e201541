// Where the pages of a paged cache are: frames on the device, copies in host memory, and what
// moves between them.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "engine/batch_shape.h"
#include "engine/cache/paging/page_format.h"
#include "engine/cache/paging/page_mover.h"
#include "engine/row_layout.h"
#include "kvtool/cache/page_traffic.h"
#include "kvtool/cache/paged_settings.h"
#include "kvtool/cache/residency.h"

namespace kvtool::engine {

// One page: positions [page * size, (page + 1) * size) of one row in one layer.
struct PageName {
  std::int64_t layer = 0;
  std::int64_t row = 0;
  std::int64_t page = 0;
};

// Every row has the same number of frames of each layer, side by side in one buffer on the device.
// A page is kept as its format says, on the device as in host memory.
// A page is written in its frame. Once it is whole it is copied to host memory, once: then losing
// its frame moves no bytes. A page that is fetched ahead has its frame at once, but nobody may use
// or write the pages of its layer until arrive(); read() finds it in host memory meanwhile.
class PageStore {
 public:
  // Of each row and layer: frames, and more pages.
  struct Room {
    std::int64_t frames = 0;
    std::int64_t pages = 0;
  };

  // `format` outlives the store.
  PageStore(const cache::PagedSettings& settings, const Room& room, PageFormat& format,
            std::int64_t layers, std::int64_t rows, at::Device device);

  // No page has a frame or is in host memory, and nothing was counted.
  void clear();

  [[nodiscard]] std::int64_t page_size() const { return page_; }
  [[nodiscard]] std::int64_t frames() const { return frames_; }
  // What queries see of the frames, one behind the other: [B, heads, frames * page size, dim].
  [[nodiscard]] LayerKv shown(std::int64_t layer) {
    return format_.shown(layer, device_[static_cast<std::size_t>(layer)]);
  }
  // The page in a frame; -1: none.
  [[nodiscard]] std::int64_t page_in(std::int64_t layer, std::int64_t row,
                                     std::int64_t frame) const {
    return table(layer, row).in_frame[static_cast<std::size_t>(frame)];
  }
  // Its frame; -1: it has none.
  [[nodiscard]] std::int64_t frame_of(const PageName& name) const {
    return table(name.layer, name.row).frame_of[static_cast<std::size_t>(name.page)];
  }
  [[nodiscard]] std::int64_t pages() const { return pages_; }

  // Gives the page a frame, and what host memory has of it, by taking another's; not one of
  // `kept`, a mark per page. Error kInternal where a checksum says that it is not what it was,
  // which names layer, page and step.
  std::int64_t fetch(const PageName& name, const std::vector<bool>& kept, std::int64_t step);
  // A step reads it, for which it has a frame or not. inner: see PageTraffic.
  bool demand(const PageName& name, bool is_inner);
  // Whether a step's observe() is of use.
  [[nodiscard]] bool is_observing() const { return tables_.front().residency->is_observing(); }
  // Tells what a step of a layer and row showed of its pages.
  void observe(std::int64_t layer, std::int64_t row, std::span<const cache::PageScore> step) {
    table(layer, row).residency->observe(step);
  }
  // A step has read what it needs of the layer and row: what came ahead for it did.
  void end_step(std::int64_t layer, std::int64_t row) { table(layer, row).ahead.clear(); }
  // Fetches what the step after `step` may use; none of `kept` goes for it.
  void fetch_ahead(std::int64_t layer, std::int64_t row, const std::vector<bool>& kept,
                   std::int64_t step);
  // Waits for what was fetched ahead of the layer. Error as of fetch().
  void arrive(std::int64_t layer);
  // Likewise, and a step cannot go on before.
  void arrive_for_step(std::int64_t layer);
  // Copies the page to host memory, if it is not there as it is.
  void save(const PageName& name);

  // Positions of a row, which may be in any place: [heads, positions, dim]. Written rows go where
  // their page is, to host memory if it has no frame.
  void read(std::int64_t layer, std::int64_t row, SlotRange positions, const LayerKv& kv) const;
  void write(std::int64_t layer, std::int64_t row, SlotRange positions, const LayerKv& kv);

  [[nodiscard]] std::uint64_t device_bytes() const { return nbytes(device_); }
  [[nodiscard]] std::uint64_t host_bytes() const { return nbytes(host_); }
  [[nodiscard]] std::uint64_t moved_bytes() const {
    return written_bytes_ + mover_.moved_bytes() - cleared_bytes_;
  }
  // Pages that lost their frame, and those that got one again when they were needed.
  [[nodiscard]] std::uint64_t paged_out() const { return paged_out_; }
  [[nodiscard]] std::uint64_t read_back() const { return read_back_; }
  // Without what save() took.
  [[nodiscard]] const cache::PageTraffic& traffic() const { return traffic_; }

 private:
  struct Arrival {
    std::int64_t page = 0;
    PageMover::Ticket ticket;
    bool is_late = false;  // when the step needed it, it was under way
  };
  struct Table {
    std::vector<std::int64_t> frame_of;    // per page
    std::vector<std::int64_t> in_frame;    // per frame
    std::vector<bool> on_host;             // per page: host memory has it as it is
    std::vector<bool> was_out;             // per page: it has lost a frame
    std::vector<std::uint64_t> checksums;  // per page on the host, where they are asked for
    std::unique_ptr<cache::Residency> residency;
    std::vector<Arrival> arriving;
    std::vector<Arrival> ahead;  // that have arrived, for the step that is under way or next
  };

  [[nodiscard]] Table& table(std::int64_t layer, std::int64_t row) {
    return tables_[static_cast<std::size_t>(layer * rows_ + row)];
  }
  [[nodiscard]] const Table& table(std::int64_t layer, std::int64_t row) const {
    return tables_[static_cast<std::size_t>(layer * rows_ + row)];
  }
  [[nodiscard]] PageParts in_frame(const PageName& name, std::int64_t frame) const;
  [[nodiscard]] PageParts on_host(const PageName& name) const;
  std::int64_t free_frame(const PageName& name, const std::vector<bool>& kept);
  // From host memory to the frame.
  [[nodiscard]] PageCopy copy_back(const PageName& name, std::int64_t frame,
                                   std::int64_t step) const;
  void enter(const PageName& name, std::int64_t frame);
  [[nodiscard]] static bool is_arriving(const Table& table, std::int64_t page);
  [[nodiscard]] std::uint64_t page_bytes(const PageName& name) const;
  [[nodiscard]] static std::uint64_t checksum(const PageParts& page);
  [[nodiscard]] static std::uint64_t nbytes(const std::vector<PageParts>& layers);
  // Of so many positions of a page.
  [[nodiscard]] std::uint64_t part_bytes(const PageParts& page, std::int64_t positions) const;
  template <typename Visit>
  void each_page(SlotRange positions, const Visit& visit) const;

  cache::PagedSettings settings_;
  std::int64_t page_;
  std::int64_t frames_;
  std::int64_t pages_;  // of a row
  std::int64_t rows_;
  bool check_;
  PageFormat& format_;
  at::Device on_;
  std::vector<PageParts> device_;    // per layer, of all rows: its frames
  std::vector<PageParts> host_;      // likewise: its pages
  std::vector<Table> tables_;        // per layer and row
  std::uint64_t written_bytes_ = 0;  // rows, to host memory at once
  std::uint64_t cleared_bytes_ = 0;  // of the mover's, those before clear()
  std::uint64_t paged_out_ = 0;
  std::uint64_t read_back_ = 0;
  cache::PageTraffic traffic_;
  PageMover mover_;  // last: its copies are of what stands above
};

}  // namespace kvtool::engine
