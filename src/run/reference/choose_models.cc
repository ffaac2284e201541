#include "choose_models.h"

#include <filesystem>

#include "kvtool/base/error.h"
#include "kvtool/base/file.h"
#include "kvtool/base/setting.h"
#include "kvtool/run/paths.h"
#include "reference_entry.h"

namespace kvtool::run {
namespace {

namespace fs = std::filesystem;

std::string folder_names(const ReferenceSource& source) {
  std::string names;
  for (const ReferenceFolder& folder : source.folders) {
    names += (names.empty() ? "" : ", ") + folder.slug;
  }
  return names;
}

// Any one recording says which model the folder is of.
ReferenceEntry sample(const ReferenceSource& source, OpenRecordings& recordings) {
  if (source.file) return read_reference_entry(*source.file, recordings);
  for (const fs::path& path : list_folder(source.folders.front().path)) {
    if (is_recording_path(path)) return read_reference_entry(path, recordings);
  }
  throw_usage(source.folders.front().path.string() + " holds no recording");
}

std::string slug_of(const ReferenceSource& source, const ReferenceEntry& entry) {
  return entry.model_slug.empty() ? source.folders.front().slug : entry.model_slug;
}

ModelFile exported_model_of(const ReferenceSource& source, const fs::path& config_folder,
                            OpenRecordings& recordings) {
  const ReferenceEntry entry = sample(source, recordings);
  const std::string slug = slug_of(source, entry);
  // The slug comes from a file and becomes a path here.
  if (slug == model_slug(slug)) {
    if (auto model = find_exported_model(slug, config_folder)) {
      model->id = entry.model_id;
      return *model;
    }
  }
  throw_environment("the model of " + entry.path.string() + " (" +
                    (entry.model_id.empty() ? slug : entry.model_id) + ") is not at models/" +
                    slug + ".pt: give its file with " + setting("model") +
                    ", or export it with\n    " +
                    export_command(entry.model_id.empty() ? "HF_ID" : entry.model_id));
}

void keep_matching(std::vector<ModelFile>& models, const std::string& from,
                   const ReferenceSource& source, OpenRecordings& recordings) {
  const std::string slug = slug_of(source, sample(source, recordings));
  std::erase_if(models, [&](const ModelFile& model) { return model.slug != slug; });
  if (models.empty()) {
    throw_usage("none of the given models is the one of " + from + ", " + slug);
  }
}

void check_differ(const std::vector<ModelFile>& models) {
  for (std::size_t i = 0; i < models.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      if (models[i].slug != models[j].slug) continue;
      throw_usage(models[j].path.string() + " and " + models[i].path.string() +
                  " would both be compared with the recordings of " + models[i].slug +
                  ": replay one " + setting("model") + " at a time");
    }
  }
}

}  // namespace

std::vector<ModelFile> choose_models(const Request& request, const ReferenceSource& source,
                                     OpenRecordings& recordings) {
  std::vector<ModelFile> models;
  for (const std::string& given : request.models) {
    models.push_back(resolve_model(given, request.config_folder));
  }
  if (models.size() > 1 && source.direct) keep_matching(models, request.from, source, recordings);
  check_differ(models);
  if (!models.empty()) return models;
  if (source.folders.size() > 1) {
    throw_usage(request.from + " holds recordings of several models (" + folder_names(source) +
                "): choose with " + setting("model"));
  }
  return {exported_model_of(source, request.config_folder, recordings)};
}

const ReferenceFolder& folder_of(const std::string& from, const ReferenceSource& source,
                                 const ModelFile& model, std::size_t num_models) {
  for (const ReferenceFolder& folder : source.folders) {
    if (folder.slug == model.slug) return folder;
  }
  // A model file may have any name; whether it fits is checked once it is loaded.
  if (source.folders.size() == 1 && num_models == 1) return source.folders.front();
  throw_usage(from + " holds no recordings of " + model.slug + ", only of " + folder_names(source));
}

}  // namespace kvtool::run
