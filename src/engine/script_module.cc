#include "engine/script_module.h"

#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/csrc/jit/runtime/profiling_graph_executor_impl.h>
#include <torch/csrc/jit/serialization/import.h>

#include <filesystem>
#include <unordered_set>

#include "engine/torch_error.h"
#include "kvtool/base/error.h"

namespace kvtool::engine {
namespace {

// A trace holds the device it was made on as constants; they follow the module.
void move_constants(torch::jit::Block* block, at::Device device) {
  for (torch::jit::Node* node : block->nodes()) {
    for (torch::jit::Block* inner : node->blocks()) move_constants(inner, device);
    if (node->kind() != c10::prim::Constant || !node->hasAttribute(c10::attr::value)) continue;
    if (node->output()->type()->kind() == c10::TypeKind::DeviceObjType) {
      node->s_(c10::attr::value, device.str());
    } else if (node->kindOf(c10::attr::value) == torch::jit::AttributeKind::t) {
      const at::Tensor constant = node->t(c10::attr::value);
      // Scalars mix with every device and may be needed on the host.
      if (constant.dim() > 0) node->t_(c10::attr::value, constant.to(device));
    }
  }
}

void move_to(torch::jit::Module& module, at::Device device) {
  module.to(device);
  for (const torch::jit::Module& part : module.modules()) {
    for (const torch::jit::Method& method : part.get_methods()) {
      move_constants(method.graph()->block(), device);
    }
  }
}

class ScriptModule : public ForwardModule {
 public:
  explicit ScriptModule(torch::jit::Module module) : module_(std::move(module)) {}

  at::Tensor forward(const at::Tensor& input_ids, const at::Tensor& position_ids,
                     const at::Tensor& logits_to_keep) override {
    return module_.forward({input_ids, position_ids, logits_to_keep}).toTensor();
  }

 private:
  torch::jit::Module module_;
};

// The profiling executor makes the second call slow and specialises on shapes
// that change with every prompt; the plain one costs nothing per step.
void choose_executor() {
  torch::jit::getProfilingMode() = false;
  torch::jit::getExecutorMode() = false;
  torch::jit::setGraphExecutorOptimize(false);
}

}  // namespace

LoadedScript load_script(const std::string& path, at::Device device) {
  if (!std::filesystem::is_regular_file(path)) {
    throw_environment(path +
                      ": no such model file; export one with tools/export_model.py "
                      "--model HF_ID_OR_DIR --dtype bfloat16 --output " +
                      path);
  }
  choose_executor();
  torch::jit::ExtraFilesMap extra{{"kvtool.json", ""}, {"token_bytes.bin", ""}};
  torch::jit::Module module;
  translate_torch_errors(path + ": cannot be loaded as TorchScript",
                         [&] { module = torch::jit::load(path, at::kCPU, extra); });
  if (extra["kvtool.json"].empty()) {
    throw_incompatible(path +
                       ": a TorchScript file, but not one of kvtool's (it holds no "
                       "kvtool.json): export the model with tools/export_model.py");
  }
  translate_torch_errors(path + ": cannot be moved to " + device.str(), [&] {
    module.eval();
    move_to(module, device);
  });
  return {std::make_unique<ScriptModule>(std::move(module)), extra["kvtool.json"],
          extra["token_bytes.bin"]};
}

}  // namespace kvtool::engine
