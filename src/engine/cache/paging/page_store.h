// Where the pages of a paged cache are: frames on the device, copies in host memory, and what
// moves between them.
#pragma once

#include <ATen/ATen.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "engine/batch_shape.h"
#include "engine/cache/paging/page_format.h"
#include "engine/row_layout.h"
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
// its frame moves no bytes.
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
  // It is attended to.
  void use(const PageName& name);
  // Copies the page to host memory, if it is not there as it is.
  void save(const PageName& name);

  // Positions of a row, which may be in any place: [heads, positions, dim]. Written rows go where
  // their page is, to host memory if it has no frame.
  void read(std::int64_t layer, std::int64_t row, SlotRange positions, const LayerKv& kv) const;
  void write(std::int64_t layer, std::int64_t row, SlotRange positions, const LayerKv& kv);

  [[nodiscard]] std::uint64_t device_bytes() const { return nbytes(device_); }
  [[nodiscard]] std::uint64_t host_bytes() const { return nbytes(host_); }
  [[nodiscard]] std::uint64_t moved_bytes() const { return moved_bytes_; }
  // For a test: one byte of what host memory has of the page becomes another.
  void damage_host_copy(const PageName& name);
  // Pages that lost their frame, and those that got one again afterwards.
  [[nodiscard]] std::uint64_t paged_out() const { return paged_out_; }
  [[nodiscard]] std::uint64_t read_back() const { return read_back_; }

 private:
  struct Table {
    std::vector<std::int64_t> frame_of;    // per page
    std::vector<std::int64_t> in_frame;    // per frame
    std::vector<bool> on_host;             // per page: host memory has it as it is
    std::vector<bool> was_out;             // per page: it has lost a frame
    std::vector<std::uint64_t> checksums;  // per page on the host, where they are asked for
    std::unique_ptr<cache::Residency> residency;
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
  void move(const PageParts& from, const PageParts& to);
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
  std::optional<double> bytes_per_second_;  // of the emulated link
  PageFormat& format_;
  at::Device on_;
  std::vector<PageParts> device_;  // per layer, of all rows: its frames
  std::vector<PageParts> host_;    // likewise: its pages
  std::vector<Table> tables_;      // per layer and row
  std::uint64_t moved_bytes_ = 0;
  std::uint64_t paged_out_ = 0;
  std::uint64_t read_back_ = 0;
};

}  // namespace kvtool::engine
