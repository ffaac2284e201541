#include "shared_engine.h"

#include <utility>

namespace kvtool::run {
namespace {

// What all handles share. The model is declared, and so lives, within the engine's life.
struct SharedState {
  std::unique_ptr<engine::Engine> engine;
  std::string model_path;
  std::shared_ptr<engine::Model> model;
};

class ModelHandle final : public engine::Model {
 public:
  explicit ModelHandle(std::shared_ptr<SharedState> state)
      : state_(std::move(state)), model_(state_->model) {}

  [[nodiscard]] const engine::ModelInfo& info() const override { return model_->info(); }
  [[nodiscard]] std::string_view token_bytes(std::int32_t token) const override {
    return model_->token_bytes(token);
  }
  engine::GenerateResult generate(std::span<const engine::Input> inputs,
                                  const engine::GenerateOptions& options,
                                  std::span<format::RowSink* const> sinks,
                                  const engine::Progress& progress) override {
    return model_->generate(inputs, options, sinks, progress);
  }
  engine::ScoreResult score(std::span<const engine::ScoreInput> inputs,
                            const engine::ScoreOptions& options,
                            const engine::Progress& progress) override {
    return model_->score(inputs, options, progress);
  }
  engine::ReplayResult replay(const engine::ReplayBatch& batch,
                              const engine::ReplayOptions& options,
                              std::span<format::RowSink* const> sinks,
                              const engine::Progress& progress) override {
    return model_->replay(batch, options, sinks, progress);
  }

 private:
  std::shared_ptr<SharedState> state_;  // before model_: an engine outlives its models
  std::shared_ptr<engine::Model> model_;
};

class EngineHandle final : public engine::Engine {
 public:
  explicit EngineHandle(std::shared_ptr<SharedState> state) : state_(std::move(state)) {}

  [[nodiscard]] const engine::DeviceInfo& device() const override {
    return state_->engine->device();
  }
  [[nodiscard]] std::string_view torch_version() const override {
    return state_->engine->torch_version();
  }
  [[nodiscard]] engine::ModelInfo read_model_info(const std::string& path) override {
    return state_->engine->read_model_info(path);
  }
  std::unique_ptr<engine::Model> load_model(const std::string& path) override {
    if (!state_->model || state_->model_path != path) {
      state_->model.reset();  // two models need not fit beside one another
      state_->model = state_->engine->load_model(path);
      state_->model_path = path;
    }
    return std::make_unique<ModelHandle>(state_);
  }

 private:
  std::shared_ptr<SharedState> state_;
};

}  // namespace

OpenEngine share_engine(OpenEngine open_engine) {
  return [open = std::move(open_engine), state = std::make_shared<SharedState>()](
             const std::string& cpu_isa, const engine::EngineOptions& options) {
    if (!state->engine) state->engine = open(cpu_isa, options);
    return std::make_unique<EngineHandle>(state);
  };
}

}  // namespace kvtool::run
