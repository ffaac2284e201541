#include "checksum.h"

#include <new>

namespace kvtool::format {

void StreamingChecksum::Free::operator()(XXH3_state_t* state) const { XXH3_freeState(state); }

StreamingChecksum::StreamingChecksum() : state_(XXH3_createState()) {
  if (!state_) throw std::bad_alloc();
  reset();
}

void StreamingChecksum::reset() { XXH3_64bits_reset(state_.get()); }

void StreamingChecksum::update(std::span<const std::byte> data) {
  if (!data.empty()) XXH3_64bits_update(state_.get(), data.data(), data.size());
}

std::uint64_t StreamingChecksum::digest() const { return XXH3_64bits_digest(state_.get()); }

}  // namespace kvtool::format
