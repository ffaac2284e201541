#include "kvtool/run/model_file.h"

#include "kvtool/base/error.h"
#include "kvtool/run/paths.h"

namespace kvtool::run {
namespace {

namespace fs = std::filesystem;

constexpr const char* kExportedSuffix = ".pt";

bool is_exported_file_name(const std::string& given) {
  return fs::path(given).extension() == kExportedSuffix;
}

ModelFile model_of_file(const fs::path& path) { return {path, model_slug(path.stem().string())}; }

}  // namespace

std::string export_command(const std::string& model_id) {
  return "python3 tools/export_model.py --model " + shell_quoted(model_id) + " --dtype bfloat16";
}

std::optional<ModelFile> find_exported_model(const std::string& slug,
                                             const fs::path& config_folder) {
  for (const fs::path& folder : {fs::path("models"), config_folder / "models"}) {
    const fs::path path = folder / (slug + kExportedSuffix);
    if (fs::is_regular_file(path)) return ModelFile{path, slug};
  }
  return std::nullopt;
}

ModelFile resolve_model(const std::string& given, const fs::path& config_folder) {
  if (fs::is_regular_file(given)) return model_of_file(given);
  if (is_exported_file_name(given)) {
    const fs::path beside_config = config_folder / given;
    if (fs::is_regular_file(beside_config)) return model_of_file(beside_config);
    throw_usage("model file " + given + " does not exist");
  }
  const std::string slug = model_slug(given);
  if (slug.empty()) throw_usage("'" + given + "' is no exported file and no Hugging Face id");
  if (const auto found = find_exported_model(slug, config_folder)) return *found;
  throw_environment("model " + given + " has not been exported: there is no models/" + slug +
                    ".pt. Export it with\n    " + export_command(given));
}

}  // namespace kvtool::run
