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
#include "engine/cache/row_buffer.h"
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
// A page is written in its frame. Once it is whole it is copied to host memory, once: then losing
// its frame moves no bytes.
class PageStore {
 public:
  // `layout` and `shape` outlive the store. frames: of each row and layer, fewer than its pages.
  PageStore(const cache::PagedSettings& settings, std::int64_t frames, const RowLayout& layout,
            const BatchShape& shape, at::Device device);

  // No page has a frame or is in host memory, and nothing was counted.
  void clear();

  [[nodiscard]] std::int64_t page_size() const { return page_; }
  [[nodiscard]] std::int64_t frames() const { return frames_; }
  // [B, heads, frames * page size, dim]
  [[nodiscard]] const LayerKv& frames_of(std::int64_t layer) const { return device_.layer(layer); }
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

  [[nodiscard]] std::uint64_t device_bytes() const { return device_.nbytes(); }
  [[nodiscard]] std::uint64_t host_bytes() const { return host_.nbytes(); }
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
  [[nodiscard]] LayerKv in_frame(const PageName& name, std::int64_t frame) const;
  [[nodiscard]] LayerKv on_host(const PageName& name) const;
  std::int64_t free_frame(const PageName& name, const std::vector<bool>& kept);
  void move(const LayerKv& from, const LayerKv& to);
  [[nodiscard]] std::uint64_t checksum(const LayerKv& page) const;
  template <typename Visit>
  void each_page(SlotRange positions, const Visit& visit) const;

  cache::PagedSettings settings_;
  std::int64_t page_;
  std::int64_t frames_;
  std::int64_t pages_;  // of a row
  std::int64_t rows_;
  bool check_;
  std::optional<double> bytes_per_second_;  // of the emulated link
  RowBuffer device_;
  RowBuffer host_;
  std::vector<Table> tables_;  // per layer and row
  std::uint64_t moved_bytes_ = 0;
  std::uint64_t paged_out_ = 0;
  std::uint64_t read_back_ = 0;
};

}  // namespace kvtool::engine
