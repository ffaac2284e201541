#include "kvtool/run/services.h"

#include "kvtool/base/error.h"
#ifdef KVTOOL_HAVE_ENGINE
#include "kvtool/engine/loader.h"
#endif

namespace kvtool::run {
namespace {

std::unique_ptr<engine::Engine> open_engine([[maybe_unused]] const std::string& cpu_isa,
                                            [[maybe_unused]] const engine::EngineOptions& options) {
#ifdef KVTOOL_HAVE_ENGINE
  engine::set_cpu_isa(cpu_isa);
  return engine::load_engine(options);
#else
  throw_environment(
      "this kvtool was built without its engine (KVTOOL_ENGINE=OFF) and cannot run a model; info, "
      "dump, diff, verify and recover work. Build it with -DKVTOOL_ENGINE=ON and an installed "
      "torch");
#endif
}

}  // namespace

Services system_services(StopToken stop) {
  return {
      .open_engine = open_engine,
      .encoder = [stop](const std::filesystem::path& model,
                        std::string_view input) { return run_encoder(model, input, stop); },
      .now = std::chrono::system_clock::now,
      .stop = stop,
      .exporter =
          [stop](const std::vector<std::string>& options) { return run_exporter(options, stop); }};
}

}  // namespace kvtool::run
