#include "model_check.h"

#include "kvtool/analysis/model_config.h"
#include "kvtool/base/error.h"
#include "kvtool/base/setting.h"
#include "kvtool/format/meta.h"
#include "run_meta.h"

namespace kvtool::run {
namespace {

// Layers, heads and dims without the element types.
format::Geometry shape_of(const format::Geometry& geometry) {
  std::vector<format::LayerGeometry> layers = geometry.layers();
  for (format::LayerGeometry& layer : layers) {
    layer.key_dtype = layer.value_dtype = DType::kFloat32;
  }
  return format::Geometry(std::move(layers));
}

std::string named(const ModelIdentity& model) {
  const std::string dtype = model.dtype.empty() ? "" : ", " + model.dtype;
  return format::to_hex(model.weights_sha256) +
         (model.id.empty() ? "" : " (" + model.id + dtype + ")");
}

std::string size_of(const format::Geometry& geometry) {
  return std::to_string(geometry.num_layers()) + " layers, " +
         std::to_string(geometry.position_bytes()) + " bytes per position";
}

std::string quoted_or_unknown(const std::string& text) { return text.empty() ? "unknown" : text; }

class Check {
 public:
  Check(const ModelIdentity& recorded, const ModelIdentity& live)
      : recorded_(recorded),
        live_(live),
        configs_(analysis::compare_configs(recorded.exported, live.exported)) {}

  // What weights may never explain away.
  void shape() const {
    if (recorded_.vocab_size != live_.vocab_size) {
      fail("another vocabulary", std::to_string(recorded_.vocab_size) + " tokens",
           std::to_string(live_.vocab_size) + " tokens");
    }
    const std::string difference =
        describe_difference(shape_of(recorded_.geometry), shape_of(live_.geometry));
    if (!difference.empty()) {
      fail("another K/V geometry, " + difference, size_of(recorded_.geometry),
           size_of(live_.geometry));
    }
  }

  // What allow_different_weights lets differ.
  void sameness() const {
    if (recorded_.weights_sha256 != live_.weights_sha256) {
      fail_unless_asked_for("other weights (SHA-256)", named(recorded_), named(live_));
    }
    // Equal weights can be read in two ways: Mistral is Llama with a window.
    if (!recorded_.architecture.empty() && !live_.architecture.empty() &&
        recorded_.architecture != live_.architecture) {
      fail_unless_asked_for("another architecture", recorded_.architecture, live_.architecture);
    }
    // Nor do equal weights compute the same with another rope theta or epsilon.
    if (!configs_.other.empty()) {
      fail_unless_asked_for("another config of the model",
                            analysis::recorded_fields(configs_.other),
                            analysis::live_fields(configs_.other));
    }
    const std::string difference = describe_difference(recorded_.geometry, live_.geometry);
    if (!difference.empty()) {
      fail_unless_asked_for("another K/V geometry, " + difference, size_of(recorded_.geometry),
                            size_of(live_.geometry));
    }
    if (recorded_.logits_dtype != live_.logits_dtype) {
      fail_unless_asked_for("another dtype of the logits",
                            std::string(dtype_name(recorded_.logits_dtype)),
                            std::string(dtype_name(live_.logits_dtype)));
    }
  }

  [[nodiscard]] ModelDifferences differences() const {
    return {.weights = recorded_.weights_sha256 != live_.weights_sha256,
            .config = !configs_.other.empty()};
  }

 private:
  [[noreturn]] void fail_unless_asked_for(const std::string& what, const std::string& recorded,
                                          const std::string& live) const {
    fail(what, recorded, live,
         "\n    " + setting("allow_different_weights") + " compares them all the same");
  }

  [[noreturn]] void fail(const std::string& what, const std::string& recorded,
                         const std::string& live, const std::string& advice = {}) const {
    throw_incompatible(recorded_.subject + " does not belong to " + live_.subject + ": " + what +
                       "\n    recorded: " + quoted_or_unknown(recorded) +
                       "\n    here:     " + quoted_or_unknown(live) + advice);
  }

  const ModelIdentity& recorded_;
  const ModelIdentity& live_;
  analysis::ConfigComparison configs_;
};

}  // namespace

ModelIdentity identity_of(const format::Recording& recording) {
  const format::RecordingHeader& header = recording.header();
  const nlohmann::json& meta = recording.meta();
  const format::MetaModel model = format::Meta::parse(meta).model;
  return {.subject = recording.path().string(),
          .id = model.id.value_or(""),
          .dtype = model.dtype.value_or(""),
          .architecture = model.architecture.value_or(""),
          .weights_sha256 = header.model_sha256,
          .vocab_size = header.vocab_size,
          .geometry = header.geometry,
          .logits_dtype = header.logits_dtype,
          .exported = meta.value("model", nlohmann::json())};
}

ModelIdentity identity_of(const engine::ModelInfo& model) {
  return {.subject = "the model " + model.model_id + " (" + model.path + ")",
          .id = model.model_id,
          .dtype = model.dtype,
          .architecture = model.architecture,
          .weights_sha256 = model.weights_sha256,
          .vocab_size = model.vocab_size,
          .geometry = model.geometry,
          .logits_dtype = model.logits_dtype,
          .exported = exporter_members(model)};
}

ModelDifferences check_same_model(const ModelIdentity& recorded, const ModelIdentity& live,
                                  bool allow_different_weights) {
  const Check check(recorded, live);
  check.shape();
  if (!allow_different_weights) check.sameness();
  return check.differences();
}

}  // namespace kvtool::run
