// Every read that the library offers.
#pragma once

#include "kvtool/format/reader.h"

namespace kvtool::fuzz {

// Throws kvtool::Error for what is wrong with the recording.
void read_everything(const format::Recording& recording);

}  // namespace kvtool::fuzz
