// Makes the codec that a spec names.
#pragma once

#include <memory>

#include "engine/cache/codecs/row_codec.h"
#include "kvtool/cache/cache_spec.h"

namespace kvtool::engine {

// Null for a policy that keeps rows in no codec, each on its own.
[[nodiscard]] std::unique_ptr<RowCodec> make_row_codec(const cache::CacheSpec& spec);

}  // namespace kvtool::engine
