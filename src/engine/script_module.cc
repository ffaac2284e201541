#include "engine/script_module.h"

#include <caffe2/serialize/inline_container.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/passes/inliner.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/csrc/jit/runtime/interpreter.h>
#include <torch/csrc/jit/runtime/profiling_graph_executor_impl.h>
#include <torch/csrc/jit/serialization/import.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <utility>
#include <vector>

#include "engine/packed_linear.h"
#include "engine/torch_error.h"
#include "kvtool/base/error.h"

namespace kvtool::engine {
namespace {

constexpr int kMaxModuleDepth = 64;

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

// A tensor attribute of a class of modules, such as Linear.weight.
using Attribute = std::pair<const c10::ClassType*, std::string>;

// Calls `visit(attribute, node)` for every node in `block` that reads one.
template <typename Visit>
void for_each_read(torch::jit::Block* block, const Visit& visit) {
  for (torch::jit::Node* node : block->nodes()) {
    for (torch::jit::Block* inner : node->blocks()) for_each_read(inner, visit);
    if (node->kind() != c10::prim::GetAttr) continue;
    const auto owner = node->input()->type()->cast<c10::ClassType>();
    if (owner && node->output()->type()->isSubtypeOf(*c10::TensorType::get())) {
      visit(Attribute(owner.get(), node->s(c10::attr::name)), node);
    }
  }
}

bool is_weight(const torch::jit::Use& use) {
  return use.user->kind() == c10::aten::linear && use.offset == 1;
}

// How the code of a class of modules uses one of its tensors.
struct Reads {
  bool as_weight = false;  // of a linear layer
  bool otherwise = false;  // such as an embedding that shares its table with the head
};

bool has_calls(const torch::jit::Graph& graph) {
  const auto nodes = graph.nodes();
  return std::any_of(nodes.begin(), nodes.end(), [](const torch::jit::Node* node) {
    return node->kind() == c10::prim::CallMethod;
  });
}

// Makes one graph of all modules, in which a weight that one module hands to
// another can be followed.
void inline_calls(torch::jit::Graph& graph) {
  // One level of calls at a time; a call that cannot be inlined stays.
  for (int level = 0; level < kMaxModuleDepth && has_calls(graph); ++level) {
    torch::jit::Inline(graph);
  }
}

bool is_packable(const torch::jit::Module& part, const std::string& name) {
  const at::Tensor weight = part.attr(name).toTensor();
  return weight.dim() == 2 && weight.numel() > 0 && can_pack_weights(weight.scalar_type());
}

std::string packed_name(const std::string& name) { return "kvtool_packed_" + name; }

// Modules of one class share their code, and loading makes modules of equal code
// one class: what is changed for one is changed for all.
std::map<Attribute, Reads> find_weights(const torch::jit::Module& module,
                                        torch::jit::Block* block) {
  std::map<Attribute, Reads> weights;
  for_each_read(block, [&](const Attribute& attribute, const torch::jit::Node* read) {
    Reads& reads = weights[attribute];
    for (const torch::jit::Use& use : read->output()->uses()) {
      (is_weight(use) ? reads.as_weight : reads.otherwise) = true;
    }
  });
  std::vector<torch::jit::Module> parts;
  for (const torch::jit::Module& part : module.modules()) parts.push_back(part);
  std::erase_if(weights, [&](const auto& entry) {
    return !entry.second.as_weight ||
           std::any_of(parts.begin(), parts.end(), [&](const torch::jit::Module& part) {
             return part.type().get() == entry.first.first &&
                    !is_packable(part, entry.first.second);
           });
  });
  return weights;
}

// Makes linear layers multiply by packed copies of their weights; what nothing
// else reads is dropped.
void pack_linear_weights(torch::jit::Module& module) {
  static const auto packed_linear_symbol = c10::Symbol::fromQualString("kvtool::packed_linear");
  const auto graph = module.get_method("forward").graph();
  inline_calls(*graph);
  const std::map<Attribute, Reads> weights = find_weights(module, graph->block());
  for (torch::jit::Module part : module.modules()) {
    for (const auto& [attribute, reads] : weights) {
      if (attribute.first != part.type().get()) continue;
      const at::Tensor weight = part.attr(attribute.second).toTensor();
      part.register_attribute(packed_name(attribute.second), c10::TensorType::get(),
                              pack_weight(weight));
      if (!reads.otherwise) part.setattr(attribute.second, at::empty({0}, weight.options()));
    }
  }
  for_each_read(graph->block(), [&](const Attribute& attribute, torch::jit::Node* read) {
    if (!weights.contains(attribute)) return;
    torch::jit::Node* packed =
        graph->createGetAttr(read->input(), packed_name(attribute.second))->insertAfter(read);
    const auto uses = read->output()->uses();
    for (const torch::jit::Use& use : uses) {
      if (!is_weight(use)) continue;
      use.user->replaceInput(1, packed->output());
      use.user->replaceWithNewSymbol(packed_linear_symbol);
      use.user->destroy();
    }
  });
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
// that change with every prompt; the plain one costs nothing per step. What is thrown
// inside leaves as it was thrown: wrapped, memory that ran out could not be told from a bug.
void choose_executor() {
  FLAGS_torch_jit_enable_rethrow_caught_exception = true;
  torch::jit::getProfilingMode() = false;
  torch::jit::getExecutorMode() = false;
  torch::jit::setGraphExecutorOptimize(false);
}

constexpr const char* kMetadataName = "kvtool.json";

void check_is_file(const std::string& path) {
  if (std::filesystem::is_regular_file(path)) return;
  throw_environment(path +
                    ": no such model file; export one with tools/export_model.py "
                    "--model HF_ID_OR_DIR --dtype bfloat16 --output " +
                    path);
}

[[noreturn]] void throw_not_exported(const std::string& path) {
  throw_incompatible(path +
                     ": a TorchScript file, but not one of kvtool's (it holds no "
                     "kvtool.json): export the model with tools/export_model.py");
}

}  // namespace

std::string read_script_metadata(const std::string& path) {
  check_is_file(path);
  const std::string record = std::string("extra/") + kMetadataName;
  std::string metadata;
  translate_torch_errors(
      path + ": cannot be read as TorchScript",
      [&] {
        caffe2::serialize::PyTorchStreamReader reader(path);
        if (!reader.hasRecord(record)) return;
        const auto [data, size] = reader.getRecord(record);
        metadata.assign(static_cast<const char*>(data.get()), size);
      },
      ErrorCode::kEnvironment);
  if (metadata.empty()) throw_not_exported(path);
  return metadata;
}

LoadedScript load_script(const std::string& path, at::Device device) {
  check_is_file(path);
  choose_executor();
  torch::jit::ExtraFilesMap extra{{kMetadataName, ""}, {"token_bytes.bin", ""}};
  torch::jit::Module module;
  translate_torch_errors(
      path + ": cannot be loaded as TorchScript",
      [&] { module = torch::jit::load(path, at::kCPU, extra); }, ErrorCode::kEnvironment);
  if (extra[kMetadataName].empty()) throw_not_exported(path);
  translate_torch_errors(path + ": cannot be moved to " + device.str(), [&] {
    module.eval();
    move_to(module, device);
    // Elsewhere a plain weight is what the kernels want.
    if (device.is_cpu()) pack_linear_weights(module);
  });
  return {std::make_unique<ScriptModule>(std::move(module)), extra[kMetadataName],
          extra["token_bytes.bin"]};
}

}  // namespace kvtool::engine
