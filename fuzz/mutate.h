// The mutation of recordings that the targets for whole files share.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kvtool::fuzz {

// As LLVMFuzzerCustomMutator: changes bytes, fields, records or the order of records, then
// mostly repairs the checksums (seal.h) and sometimes damages a byte again.
std::size_t mutate_recording(std::uint8_t* data, std::size_t size, std::size_t max_size,
                             unsigned seed);

}  // namespace kvtool::fuzz
