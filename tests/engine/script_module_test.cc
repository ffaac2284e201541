// Loading rewrites the graph of a model for this CPU; what it computes stays.
#include "engine/script_module.h"

#include <gtest/gtest.h>
#include <torch/csrc/jit/api/module.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "engine/packed_linear.h"
#include "support/error_of.h"

namespace kvtool::engine {
namespace {

namespace fs = std::filesystem;

// Linear layers as exported models have them: in a class that several instances
// share, with and without bias, and a head that reads the embedding's table.
torch::jit::Module make_module(at::ScalarType dtype) {
  const auto units = std::make_shared<torch::jit::CompilationUnit>();
  const auto linear = [&](std::int64_t out, std::int64_t in) {
    static int number = 0;
    torch::jit::Module module("Linear" + std::to_string(number++), units);
    module.register_parameter("weight", at::randn({out, in}).to(dtype), /*is_buffer=*/false);
    module.register_parameter("bias", at::randn({out}).to(dtype), /*is_buffer=*/false);
    module.define("def forward(self, x):\n  return torch.linear(x, self.weight, self.bias)\n");
    return module;
  };
  torch::jit::Module model("Model", units);
  model.register_parameter("table", at::randn({50, 16}).to(dtype), /*is_buffer=*/false);
  model.register_module("up", linear(24, 16));
  model.register_module("down", linear(16, 24));
  model.define(R"(
def head(self, x):
  return torch.linear(x, self.table, None)
def forward(self, input_ids, position_ids, logits_to_keep):
  hidden = torch.embedding(self.table, input_ids)
  hidden = hidden + self.down.forward(torch.relu(self.up.forward(hidden)))
  return self.head(hidden.index_select(1, logits_to_keep))
)");
  return model;
}

class ScriptModuleTest : public testing::TestWithParam<at::ScalarType> {
 protected:
  ScriptModuleTest()
      : path_(fs::temp_directory_path() /
              ("kvtool_script_module_" + std::to_string(::getpid()) + ".pt")) {}
  ~ScriptModuleTest() override { fs::remove(path_); }

  fs::path path_;
};

TEST_P(ScriptModuleTest, PackedWeightsComputeWhatTheModelComputes) {
  at::manual_seed(5);
  torch::jit::Module module = make_module(GetParam());
  module.save(path_.string(), {{"kvtool.json", "{}"}, {"token_bytes.bin", "x"}});
  LoadedScript loaded = load_script(path_.string(), at::kCPU);
  for (const std::int64_t positions : {1, 7, 65}) {
    const at::Tensor ids = at::randint(50, {2, positions}, at::kLong);
    const at::Tensor places = at::arange(positions).expand({2, positions});
    const at::Tensor keep = at::arange(positions);
    const at::Tensor expected = module.forward({ids, places, keep}).toTensor().to(at::kFloat);
    const at::Tensor actual = loaded.module->forward(ids, places, keep).to(at::kFloat);
    const double bound = GetParam() == at::kFloat ? 1e-4 : 0.05;
    EXPECT_LT((actual - expected).abs().max().item<double>(),
              bound * expected.abs().max().item<double>());
  }
}

TEST_P(ScriptModuleTest, MetadataIsReadWithoutTheWeights) {
  const torch::jit::Module module = make_module(GetParam());
  module.save(path_.string(), {{"kvtool.json", "{\"a\": 1}"}, {"token_bytes.bin", "x"}});
  EXPECT_EQ(read_script_metadata(path_.string()), "{\"a\": 1}");
  module.save(path_.string());
  EXPECT_EQ(error_of([&] { (void)read_script_metadata(path_.string()); }).code(),
            ErrorCode::kIncompatible);
  std::ofstream(path_) << "no archive";
  EXPECT_EQ(error_of([&] { (void)read_script_metadata(path_.string()); }).code(),
            ErrorCode::kEnvironment);
  fs::remove(path_);
  EXPECT_EQ(error_of([&] { (void)read_script_metadata(path_.string()); }).code(),
            ErrorCode::kEnvironment);
}

INSTANTIATE_TEST_SUITE_P(Dtypes, ScriptModuleTest, testing::Values(at::kFloat, at::kBFloat16),
                         [](const auto& param_info) {
                           return std::string(at::toString(param_info.param));
                         });

TEST(PackedLinear, EqualsALinearLayer) {
  if (!can_pack_weights(at::kFloat)) GTEST_SKIP() << "this torch has no oneDNN";
  at::manual_seed(6);
  const at::Tensor weight = at::randn({24, 16});
  const at::Tensor bias = at::randn({24});
  const at::Tensor packed = pack_weight(weight);
  for (const std::int64_t rows : {1, 3, 40}) {
    const at::Tensor input = at::randn({1, rows, 16});
    EXPECT_TRUE(at::allclose(packed_linear(input, packed, bias), at::linear(input, weight, bias),
                             1e-5, 1e-5));
    EXPECT_TRUE(at::allclose(packed_linear(input, packed, std::nullopt), at::linear(input, weight),
                             1e-5, 1e-5));
  }
}

TEST(PackedLinear, OtherDtypesAreLeftAlone) {
  EXPECT_FALSE(can_pack_weights(at::kDouble));
  EXPECT_FALSE(can_pack_weights(at::kHalf));
}

}  // namespace
}  // namespace kvtool::engine
