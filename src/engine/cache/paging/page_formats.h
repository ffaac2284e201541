// The formats of pages that are not of exact rows: make_page_format() chooses among them.
#pragma once

#include <memory>

#include "engine/cache/codecs/row_codec.h"
#include "engine/cache/paging/page_format.h"
#include "kvtool/cache/kivi_settings.h"

namespace kvtool::engine {

// Arguments as those of make_page_format().
[[nodiscard]] std::unique_ptr<PageFormat> make_coded_pages(std::unique_ptr<RowCodec> codec,
                                                           const RowLayout& layout,
                                                           const BatchShape& shape,
                                                           std::int64_t frame_positions,
                                                           at::Device device);
[[nodiscard]] std::unique_ptr<PageFormat> make_grouped_pages(const cache::KiviSettings& settings,
                                                             const RowLayout& layout,
                                                             const BatchShape& shape,
                                                             std::int64_t frame_positions,
                                                             at::Device device);

}  // namespace kvtool::engine
