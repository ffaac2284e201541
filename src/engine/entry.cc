// The engine library's two entry points, see loader.cc.
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <c10/core/DeviceGuard.h>

#include "engine/device.h"
#include "engine/key_rotations.h"
#include "engine/model_metadata.h"
#include "engine/script_module.h"
#include "engine/torch_error.h"
#include "engine/torch_model.h"
#include "kvtool/engine/api.h"

namespace kvtool::engine {
namespace {

class ModelAdapter : public Model {
 public:
  explicit ModelAdapter(TorchModel model) : model_(std::move(model)) {}

  [[nodiscard]] const ModelInfo& info() const override { return model_.info; }

  [[nodiscard]] std::string_view token_bytes(std::int32_t token) const override {
    return model_.tokens.bytes(token);
  }

  GenerateResult generate(std::span<const Input> inputs, const GenerateOptions& options,
                          std::span<format::RowSink* const> sinks,
                          const Progress& progress) override {
    check_tokens(inputs);
    return guarded("generation",
                   [&] { return engine::generate(model_, inputs, options, sinks, progress); });
  }

  ScoreResult score(std::span<const ScoreInput> inputs, const ScoreOptions& options,
                    const Progress& progress) override {
    check_tokens(inputs);
    return guarded("scoring", [&] { return engine::score(model_, inputs, options, progress); });
  }

  ReplayResult replay(const ReplayBatch& batch, const ReplayOptions& options,
                      std::span<format::RowSink* const> sinks, const Progress& progress) override {
    return guarded("replay", [&] {
      return options.parallel ? replay_in_parallel(model_, batch, options, sinks, progress)
                              : engine::replay(model_, batch, options, sinks, progress);
    });
  }

 private:
  // An id outside of the vocabulary reads beyond the embedding on a GPU.
  template <typename Line>
  void check_tokens(std::span<const Line> inputs) const {
    for (std::size_t index = 0; index < inputs.size(); ++index) {
      for (const std::int32_t token : inputs[index].token_ids) {
        if (token < 0 || static_cast<std::uint32_t>(token) >= model_.info.vocab_size) {
          throw_usage("prompt " + std::to_string(index) + " of the batch: token id " +
                      std::to_string(token) + " is outside of the vocabulary of " +
                      std::to_string(model_.info.vocab_size));
        }
      }
    }
  }

  template <typename Body>
  auto guarded(const std::string& what, Body&& body) -> decltype(body()) {
    const c10::DeviceGuard guard(model_.device);
    return translate_torch_errors(what, body);
  }

  TorchModel model_;
};

class TorchEngine : public Engine {
 public:
  explicit TorchEngine(const EngineOptions& options)
      : device_(resolve_device(options.device)), torch_version_(loaded_torch_version()) {
    if (options.threads > 0) at::set_num_threads(options.threads);
    info_ = describe_device(device_);
  }

  [[nodiscard]] const DeviceInfo& device() const override { return info_; }
  [[nodiscard]] std::string_view torch_version() const override { return torch_version_; }

  [[nodiscard]] ModelInfo read_model_info(const std::string& path) override {
    return parse_model_metadata(path, read_script_metadata(path));
  }

  std::unique_ptr<Model> load_model(const std::string& path) override {
    LoadedScript script = load_script(path, device_);
    ModelInfo info = parse_model_metadata(path, script.metadata_json);
    RowLayout layout(info.geometry);
    KeyRotations rotations = key_rotations_of(info);
    return std::make_unique<ModelAdapter>(
        TorchModel{std::move(info), TokenTable(path, std::move(script.token_bytes)),
                   std::move(layout), std::move(script.module), device_, std::move(rotations)});
  }

 private:
  at::Device device_;
  std::string torch_version_;
  DeviceInfo info_;
};

}  // namespace
}  // namespace kvtool::engine

extern "C" __attribute__((visibility("default"))) int kvtool_engine_abi() {
  return kvtool::engine::kEngineAbi;
}

extern "C" __attribute__((visibility("default"))) kvtool::engine::Engine* kvtool_engine_create(
    const kvtool::engine::EngineOptions& options) {
  return kvtool::engine::translate_torch_errors(
      "the engine cannot start",
      [&] {
        return static_cast<kvtool::engine::Engine*>(new kvtool::engine::TorchEngine(options));
      },
      kvtool::ErrorCode::kEnvironment);
}
