#include "engine/reference_check.h"

#include <algorithm>
#include <string>
#include <vector>

#include "kvtool/base/error.h"
#include "kvtool/base/setting.h"

namespace kvtool::engine {
namespace {

// `shape` with the dtypes of `dtypes`, so that a difference between the result
// and `dtypes` is one of shape.
format::Geometry with_dtypes(const format::Geometry& shape, const format::Geometry& dtypes) {
  if (shape.num_layers() != dtypes.num_layers()) return shape;
  std::vector<format::LayerGeometry> layers = shape.layers();
  for (std::size_t index = 0; index < layers.size(); ++index) {
    layers[index].key_dtype = dtypes.layer(index).key_dtype;
    layers[index].value_dtype = dtypes.layer(index).value_dtype;
  }
  return format::Geometry(std::move(layers));
}

void check_geometry(const ModelInfo& model, const format::Geometry& recorded) {
  const std::string difference = describe_difference(recorded, model.geometry);
  if (difference.empty()) return;
  throw_incompatible("the recording's K/V does not fit " + model.path + ": " + difference);
}

void check_shape(const ModelInfo& model, const format::RecordingHeader& reference) {
  if (reference.vocab_size != model.vocab_size) {
    throw_incompatible("the recording has a vocabulary of " + std::to_string(reference.vocab_size) +
                       ", " + model.path + " one of " + std::to_string(model.vocab_size));
  }
  check_geometry(model, with_dtypes(reference.geometry, model.geometry));
}

void check_weights(const ModelInfo& model, const format::RecordingHeader& reference) {
  if (reference.model_sha256 != model.weights_sha256) {
    throw_incompatible("the recording is of other weights (SHA-256 " +
                       format::to_hex(reference.model_sha256) + ") than " + model.path + " (" +
                       format::to_hex(model.weights_sha256) + "); " +
                       setting("allow_different_weights") + " compares them all the same");
  }
  check_geometry(model, reference.geometry);
  if (reference.logits_dtype != model.logits_dtype) {
    throw_incompatible("the recording's logits are " +
                       std::string(dtype_name(reference.logits_dtype)) + ", those of " +
                       model.path + " " + std::string(dtype_name(model.logits_dtype)));
  }
}

void check_same_batch(const format::RecordingHeader& first, const format::RecordingHeader& other) {
  if (other.top_k != first.top_k) {
    throw_incompatible("recordings of one batch must hold the same number of top logits, found " +
                       std::to_string(first.top_k) + " and " + std::to_string(other.top_k));
  }
  if (other.logits_sample != first.logits_sample) {
    throw_incompatible(
        "recordings of one batch must hold a sample of logits of the same size, found " +
        std::to_string(first.logits_sample) + " and " + std::to_string(other.logits_sample));
  }
  const std::string difference = describe_difference(first.geometry, other.geometry);
  if (!difference.empty()) {
    throw_incompatible("recordings of one batch must hold K/V of the same dtypes: " + difference);
  }
}

}  // namespace

ReferenceFormat check_references(const ModelInfo& model, const ReplayBatch& batch,
                                 bool allow_different_weights) {
  if (batch.rows.empty()) throw_misuse("a replay needs at least one recording");
  const format::RecordingHeader& first = batch.rows.front().reference->header();
  for (const ReplayRow& row : batch.rows) {
    const format::RecordingHeader& header = row.reference->header();
    if (!allow_different_weights) check_weights(model, header);
    format::require_plain(header.geometry, "the recording", "a replay");
    check_shape(model, header);
    check_same_batch(first, header);
  }
  return {.top_k = std::clamp(first.top_k, 1U, model.vocab_size),
          .gathered = {.at_reference_top = first.top_k, .sample = first.logits_sample},
          .geometry = first.geometry};
}

}  // namespace kvtool::engine
