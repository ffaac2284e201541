#include "kvtool/base/error.h"
#include "kvtool/run/model_file.h"
#include "kvtool/run/paths.h"
#include "python_helper.h"

namespace kvtool::run {
namespace {

namespace fs = std::filesystem;

// As tools/export_model.py does; argv[1] is the folder that holds the package.
constexpr const char* kProgram =
    "import sys; sys.path.insert(0, sys.argv.pop(1)); from kvtool.export import main; "
    "raise SystemExit(main())";

}  // namespace

bool is_checkpoint_folder(const std::string& given) {
  std::error_code ignored;
  return fs::is_regular_file(fs::path(given) / "config.json", ignored);
}

ProcessResult run_exporter(const std::vector<std::string>& options, const StopToken& stop) {
  const auto package = find_python_file("kvtool/export.py");
  if (!package) {
    throw_environment(
        "a checkpoint is exported by kvtool's Python, which is not there: set "
        "KVTOOL_PYTHON_DIR to kvtool's python folder");
  }
  std::vector<std::string> argv = {python_interpreter(), "-c", kProgram,
                                   package->parent_path().parent_path().string()};
  argv.insert(argv.end(), options.begin(), options.end());
  return run_process(argv, "", stop);
}

void export_checkpoint(const std::string& folder, const std::string& dtype,
                       const ExporterProcess& process) {
  std::error_code ignored;
  const std::string slug = model_slug(fs::canonical(folder, ignored).filename().string());
  const std::string target = (fs::path("models") / (slug + ".pt")).string();
  fs::create_directories("models", ignored);
  const ProcessResult done = process({"--model", folder, "--dtype", dtype, "--output", target});
  if (done.exit_status == 0) return;
  throw_environment("the checkpoint " + folder + " could not be exported (exit status " +
                    std::to_string(done.exit_status) + "): " + last_lines(done.error_output));
}

}  // namespace kvtool::run
