// A configuration, with prompts and gate, or lines of a prompts file.
#include "cli/config.h"

#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "kvtool/base/error.h"
#include "kvtool/run/prompts.h"
#include "memory_budget.h"

namespace {

using namespace kvtool;

// Whatever is wrong is the user's to correct.
template <typename Parse>
void parse(Parse what) {
  try {
    what();
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kUsage) std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const fuzz::MemoryBudget budget(size, 1);
  // Files that it names are looked for in a folder that does not exist.
  parse([&] { static_cast<void>(cli::parse_config(text, "/nonexistent/fuzz/config.json")); });
  parse([&] {
    static_cast<void>(run::parse_prompt(run::parse_json_text(text, "line", false), "line"));
  });
  return 0;
}
