#include "kvtool/run/model_file.h"

#include "kvtool/base/error.h"
#include "kvtool/base/setting.h"
#include "kvtool/run/paths.h"

namespace kvtool::run {
namespace {

namespace fs = std::filesystem;

constexpr const char* kExportedSuffix = ".pt";

// False for names that no file can have.
bool is_file(const fs::path& path) {
  std::error_code ignored;
  return fs::is_regular_file(path, ignored);
}

bool is_exported_file_name(const std::string& given) {
  return fs::path(given).extension() == kExportedSuffix;
}

ModelFile model_of_file(const fs::path& path) { return {path, model_slug(path.stem().string())}; }

bool is_written_as_path(const std::string& given) {
  return !given.empty() && (given.front() == '.' || given.front() == '/' || given.back() == '/');
}

// The id under which the exporter exports a folder; empty for what is none.
std::string id_of_folder(const std::string& given) {
  std::error_code error;
  const fs::path folder = fs::canonical(given, error);
  if (error || !fs::is_directory(folder, error)) return {};
  return folder.filename().string();
}

std::optional<ModelFile> find_by_id(const std::string& id, const fs::path& config_folder) {
  if (model_slug(id).empty()) return std::nullopt;
  std::optional<ModelFile> found = find_exported_model(model_slug(id), config_folder);
  if (found) found->id = id;
  return found;
}

}  // namespace

std::string export_command(const std::string& model_id) {
  return "python3 tools/export_model.py --model " + shell_quoted(model_id) + " --dtype bfloat16";
}

std::optional<ModelFile> find_exported_model(const std::string& slug,
                                             const fs::path& config_folder) {
  for (const fs::path& folder : {fs::path("models"), config_folder / "models"}) {
    const fs::path path = folder / (slug + kExportedSuffix);
    if (is_file(path)) return ModelFile{path, slug};
  }
  return std::nullopt;
}

ModelFile resolve_model(const std::string& given, const fs::path& config_folder) {
  if (is_file(given)) return model_of_file(given);
  if (is_exported_file_name(given)) {
    const fs::path beside_config = config_folder / given;
    if (is_file(beside_config)) return model_of_file(beside_config);
  }
  // An id may end in .pt, too.
  if (!is_written_as_path(given)) {
    if (const auto found = find_by_id(given, config_folder)) return *found;
  }
  if (const auto found = find_by_id(id_of_folder(given), config_folder)) return *found;
  if (is_exported_file_name(given)) throw_usage("model file " + given + " does not exist");
  const std::string slug = model_slug(given);
  if (slug.empty()) {
    throw_usage("'" + given +
                "' is no exported file, and no id that has one: files are named after "
                "the letters a-z and digits of an id. Give the file itself, such as " +
                setting("model") + " models/NAME.pt");
  }
  throw_environment("model " + given + " has not been exported: there is no models/" + slug +
                    ".pt. Export it with\n    " + export_command(given));
}

void check_model_id(const ModelFile& file, const engine::ModelInfo& model) {
  if (file.id.empty() || file.id == model.model_id) return;
  const std::string path = file.path.string();
  throw_usage("the model '" + file.id + "' was asked for, but " + path + " holds '" +
              model.model_id +
              "' (names of files keep only the letters and digits of an id). To run "
              "that one, give " +
              setting("model") + " " + shell_quoted(path) +
              "; the other one needs a file of its own:\n    " + export_command(file.id) +
              " --output FILE.pt");
}

}  // namespace kvtool::run
