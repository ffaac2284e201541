// Rows that a codec keeps each by itself: what a cache and pages of them have in common.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <vector>

#include "engine/cache/codecs/row_codec.h"

namespace kvtool::engine {

// Of rows of `sizes` [.., positions]: [.., positions, width], not filled. A shared plane is there
// once for all positions, and new.
[[nodiscard]] at::Tensor new_plane(const RowCodec& codec, const RowCodec::Plane& plane,
                                   std::vector<std::int64_t> sizes, at::Device device);

// rows [.., heads, positions, dim] of one input as encode() and decode() make them. shared [heads,
// 1, width]: what its shared plane holds, undefined where there is none; a prompt measures its own.
[[nodiscard]] at::Tensor round_trip(const RowCodec& codec, const at::Tensor& rows,
                                    const at::Tensor& shared, bool is_prompt);

}  // namespace kvtool::engine
