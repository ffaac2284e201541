// META and SUMMARY: JSON of any content is refused, or is the same after a round trip.
#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string_view>

#include "format/bounded_json.h"
#include "kvtool/base/error.h"
#include "memory_budget.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace kvtool;
  const fuzz::MemoryBudget budget(size, 1);
  nlohmann::json value;
  try {
    value = format::parse_json_object({reinterpret_cast<const char*>(data), size});
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kCorrupt) std::abort();
    return 0;
  }
  if (format::parse_json_object(format::dump_json_object(value)) != value) std::abort();
  return 0;
}
