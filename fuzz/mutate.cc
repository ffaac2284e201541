#include "mutate.h"

#include <algorithm>
#include <array>
#include <random>
#include <vector>

#include "format/bytes.h"
#include "format/layout.h"
#include "seal.h"

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t max_size);

namespace kvtool::fuzz {
namespace {

using namespace kvtool::format;

struct Field {
  std::size_t at;
  std::size_t bytes;
};
// docs/format.md: what a file header, a layer entry and a record header consist of.
constexpr std::array<Field, 12> kHeaderFields = {{{8, 2},
                                                  {10, 2},
                                                  {12, 4},
                                                  {16, 8},
                                                  {24, 8},
                                                  {80, 1},
                                                  {81, 1},
                                                  {84, 4},
                                                  {88, 4},
                                                  {92, 4},
                                                  {96, 8},
                                                  {112, 8}}};
constexpr std::array<Field, 5> kLayerFields = {{{0, 1}, {1, 1}, {4, 4}, {8, 4}, {12, 4}}};
constexpr std::array<Field, 7> kRecordFields = {
    {{0, 2}, {2, 1}, {4, 4}, {8, 8}, {16, 8}, {24, 8}, {32, 8}}};

class Mutation {
 public:
  Mutation(std::uint8_t* data, std::size_t size, std::size_t max_size, unsigned seed)
      : file_(reinterpret_cast<std::byte*>(data), reinterpret_cast<std::byte*>(data) + size),
        max_size_(max_size),
        random_(seed) {}

  std::size_t run(std::uint8_t* target) {
    for (std::size_t i = 0; i <= below(3); ++i) change();
    if (below(16) != 0) seal(file_, options());
    if (below(8) == 0 && !file_.empty()) {
      file_[below(file_.size())] ^= static_cast<std::byte>(1u << below(8));
    }
    const std::size_t size = std::min(file_.size(), max_size_);
    std::copy_n(reinterpret_cast<const std::uint8_t*>(file_.data()), size, target);
    return size;
  }

 private:
  std::size_t below(std::size_t bound) { return random_() % bound; }

  SealOptions options() {
    return {.derived = below(32) != 0,
            .places = below(8) != 0,
            .sequence = below(8) != 0,
            .statistics = below(16) != 0,
            .trailer = below(4) != 0,
            .packed = below(16) != 0};
  }

  void change() {
    const std::vector<std::size_t> records = find_records(file_);
    if (records.empty() || below(8) == 0) return change_bytes(0, file_.size(), true);
    const std::size_t record = records[below(records.size())];
    switch (below(9)) {
      case 0: return set(kHeaderFields[below(kHeaderFields.size())], 0);
      case 1: return change_layer();
      case 2:
      case 3: return set(kRecordFields[below(kRecordFields.size())], record);
      case 4: return change_payload(record);
      case 5: return repeat(record, records[below(records.size())]);
      case 6: return remove(record);
      case 7: return resize_payload(record);
      default: return file_.resize(below(4) == 0 ? below(file_.size() + 1) : file_.size());
    }
  }

  std::uint64_t interesting(std::uint64_t old) {
    constexpr std::array<std::uint64_t, 12> kValues = {0,
                                                       1,
                                                       2,
                                                       64,
                                                       128,
                                                       4096,
                                                       1u << 26,
                                                       1u << 31,
                                                       0xffffffff,
                                                       std::uint64_t{1} << 62,
                                                       std::uint64_t{1} << 63,
                                                       ~std::uint64_t{0}};
    switch (below(4)) {
      case 0: return kValues[below(kValues.size())];
      case 1: return old + below(9) - 4;
      case 2: return below(20);
      default: return ~std::uint64_t{0} >> below(64);
    }
  }

  void set(const Field& field, std::size_t base) {
    if (base + field.at + field.bytes > file_.size()) return;
    std::uint64_t value = 0;
    std::byte* at = file_.data() + base + field.at;
    std::memcpy(&value, at, field.bytes);
    value = interesting(value);
    std::memcpy(at, &value, field.bytes);
  }

  void change_layer() {
    const std::size_t layers = std::min<std::size_t>(load<std::uint32_t>(file_, 92), 64);
    if (layers == 0) return;
    set(kLayerFields[below(kLayerFields.size())], 128 + 32 * below(layers));
  }

  void change_bytes(std::size_t at, std::size_t bytes, bool may_grow) {
    const std::size_t room = may_grow && max_size_ > file_.size() ? max_size_ - file_.size() : 0;
    std::vector<std::uint8_t> part(bytes + std::min<std::size_t>(room, 4096) + 1);
    std::copy_n(reinterpret_cast<const std::uint8_t*>(file_.data()) + at, bytes, part.begin());
    const std::size_t changed = LLVMFuzzerMutate(
        part.data(), bytes, may_grow ? part.size() - 1 : std::max<std::size_t>(bytes, 1));
    if (may_grow) file_.resize(std::min(at + changed, max_size_));
    const std::size_t kept = std::min(changed, file_.size() - at);
    std::copy_n(reinterpret_cast<const std::byte*>(part.data()), kept,
                file_.begin() + static_cast<std::ptrdiff_t>(at));
  }

  std::size_t stored_bytes(std::size_t record) const {
    const std::size_t rest = file_.size() - record - kRecordHeaderBytes;
    return std::min<std::uint64_t>(load<std::uint64_t>(file_, record + 24), rest);
  }

  void change_payload(std::size_t record) {
    const std::size_t bytes = stored_bytes(record);
    if (bytes > 0) change_bytes(record + kRecordHeaderBytes, bytes, false);
  }

  std::size_t whole(std::size_t record) const {
    return std::min<std::size_t>(record_bytes(stored_bytes(record)), file_.size() - record);
  }

  void repeat(std::size_t record, std::size_t before) {
    const auto from = file_.begin() + static_cast<std::ptrdiff_t>(record);
    const std::vector<std::byte> copy(from, from + static_cast<std::ptrdiff_t>(whole(record)));
    if (file_.size() + copy.size() > max_size_) return;
    file_.insert(file_.begin() + static_cast<std::ptrdiff_t>(before), copy.begin(), copy.end());
  }

  void remove(std::size_t record) {
    const auto from = file_.begin() + static_cast<std::ptrdiff_t>(record);
    file_.erase(from, from + static_cast<std::ptrdiff_t>(whole(record)));
  }

  // Another length, and as many bytes.
  void resize_payload(std::size_t record) {
    const std::size_t old = whole(record);
    const std::uint64_t bytes =
        below(4) == 0 ? below(4096) : stored_bytes(record) + below(129) - 64;
    if (bytes > 65536 || file_.size() + bytes > max_size_) return;
    const auto end = static_cast<std::ptrdiff_t>(record + old);
    const std::size_t now = record_bytes(bytes);
    if (now > old) file_.insert(file_.begin() + end, now - old, std::byte{0});
    if (now < old) {
      file_.erase(file_.begin() + end - static_cast<std::ptrdiff_t>(old - now),
                  file_.begin() + end);
    }
    if (record + kRecordHeaderBytes > file_.size()) return;
    store<std::uint64_t>(file_, record + 24, bytes);
    store<std::uint64_t>(file_, record + 32, bytes);
  }

  std::vector<std::byte> file_;
  std::size_t max_size_;
  std::mt19937 random_;
};

}  // namespace

std::size_t mutate_recording(std::uint8_t* data, std::size_t size, std::size_t max_size,
                             unsigned seed) {
  return Mutation(data, size, max_size, seed).run(data);
}

}  // namespace kvtool::fuzz
