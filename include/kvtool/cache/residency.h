// Which pages stay where room is short: the axis of a cache that changes time and traffic alone.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>

namespace kvtool::cache {

using PageId = std::uint64_t;

// Keeps book of the pages that have a frame; who owns the frames moves the bytes. Pages are told
// one use at a time, in order. Errors kMisuse: a page that enters twice, or is used or leaves
// without being there.
class Residency {
 public:
  virtual ~Residency() = default;

  // `page` got a frame, which is its first use.
  virtual void enter(PageId page) = 0;
  // It was used again.
  virtual void use(PageId page) = 0;
  // It lost its frame.
  virtual void leave(PageId page) = 0;
  // The page to take the frame from next, of those that `may_go` says yes to; it stays until
  // leave(). Error kMisuse where there is none.
  virtual PageId victim(const std::function<bool(PageId)>& may_go) = 0;
};

struct ResidencyInfo {
  std::string_view name;
  std::string_view summary;
  std::unique_ptr<Residency> (*make)();
};

std::unique_ptr<Residency> make_lru();
std::unique_ptr<Residency> make_clock();
std::unique_ptr<Residency> make_lru2();

inline constexpr std::array kResidencies = {
    ResidencyInfo{"lru", "the page goes whose last use is longest ago", make_lru},
    ResidencyInfo{"clock", "a hand passes over pages used since it came last", make_clock},
    ResidencyInfo{"lru2", "the page goes whose last use but one is longest ago: a scan passes by",
                  make_lru2},
};

// Error kMisuse for a name that is not in kResidencies.
[[nodiscard]] std::unique_ptr<Residency> make_residency(std::string_view name);

}  // namespace kvtool::cache
