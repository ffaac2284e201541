// Coded rows as numbers. docs/format.md, "Coded rows".
#pragma once

#include <cstddef>
#include <span>

#include "kvtool/format/geometry.h"

namespace kvtool::format {

// One head's row, coded_row_bytes(code, target.size()) long: code * scale + offset, computed in
// float64 and rounded once to float32, so that every reader gets the same bits. Error kMisuse
// when `row` has another length.
void decode_row(const RowCode& code, std::span<const std::byte> row, std::span<float> target);

// The codes alone, as numbers; source.size() == code_bytes(type, target.size()).
void decode_codes(CodeType type, std::span<const std::byte> source, std::span<float> target);

}  // namespace kvtool::format
