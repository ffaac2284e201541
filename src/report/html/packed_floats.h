// Numbers for the page's charts at three characters each.
#pragma once

#include <string>

namespace kvtool::report::html {

// Appends `value` as 18 bits in three characters of the base64 alphabet, most
// significant first: the upper half of a float32 (sign, 8 bits of exponent, 9 of
// mantissa), rounded to nearest: three significant digits over float32's range.
// NaN and infinities keep their kind. numbers.js has the reader.
void append_packed(std::string& target, double value);

}  // namespace kvtool::report::html
