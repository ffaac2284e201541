// What of torch's errors is the user's to mend, and what is a bug.
#include "engine/torch_error.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/frontend/resolver.h>
#include <torch/csrc/jit/frontend/sugared_value.h>
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>

#include "engine/forward_pass.h"
#include "engine/script_module.h"
#include "kvtool/base/stop.h"
#include "support/error_of.h"

namespace kvtool::engine {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

constexpr std::int64_t kTooManyBytes = std::int64_t{1} << 55;

Error translated(const std::function<void()>& body, ErrorCode otherwise = ErrorCode::kInternal) {
  const Error error = error_of([&] { translate_torch_errors("replay", body, otherwise); });
  EXPECT_THAT(error.what(), StartsWith("replay: "));
  return error;
}

void add_tensors_that_do_not_fit() { static_cast<void>(at::zeros({2}).add(at::zeros({3}))); }

TEST(TranslateTorchErrors, MemoryAndDeviceAreTheEnvironment) {
  const Error memory = translated([] { at::empty({kTooManyBytes}, at::kByte); });
  EXPECT_EQ(memory.code(), ErrorCode::kEnvironment);
  EXPECT_THAT(memory.what(), HasSubstr("out of memory"));
  const c10::SourceLocation here{"", "", 0};
  for (const auto& body : std::initializer_list<std::function<void()>>{
           [] { throw std::bad_alloc(); },
           [] { throw std::system_error(EAGAIN, std::generic_category(), "no thread"); },
           [&] { throw c10::OutOfMemoryError(here, "CUDA out of memory"); },
           [&] { throw c10::AcceleratorError(here, 700, "an illegal memory access"); },
           [&] { throw c10::NotImplementedError(here, "\"mm\" not implemented for 'Half'"); },
           [] { TORCH_CHECK(false, "CUDA error: CUBLAS_STATUS_ALLOC_FAILED"); },
           [] { TORCH_CHECK(false, "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"); }}) {
    EXPECT_EQ(translated(body).code(), ErrorCode::kEnvironment);
  }
}

TEST(TranslateTorchErrors, EverythingElseIsABug) {
  const Error torch = translated(add_tensors_that_do_not_fit);
  EXPECT_EQ(torch.code(), ErrorCode::kInternal);
  EXPECT_THAT(torch.what(), HasSubstr("must match"));
  EXPECT_EQ(translated([] { throw std::logic_error("x"); }).code(), ErrorCode::kInternal);
  EXPECT_STREQ(translated([] { throw std::runtime_error("one\ntwo"); }).what(), "replay: one\ntwo");
}

TEST(TranslateTorchErrors, WhatTorchSaysOfAFileIsTheFiles) {
  const Error error = translated([] { throw std::runtime_error("no archive\nin export.cc"); },
                                 ErrorCode::kEnvironment);
  EXPECT_EQ(error.code(), ErrorCode::kEnvironment);
  EXPECT_STREQ(error.what(), "replay: no archive");
}

TEST(TranslateTorchErrors, KvtoolsOwnStayAsTheyAre) {
  const Error error =
      error_of([] { translate_torch_errors("replay", [] { throw_corrupt("damaged"); }); });
  EXPECT_EQ(error.code(), ErrorCode::kCorrupt);
  EXPECT_STREQ(error.what(), "damaged");
  EXPECT_THROW(translate_torch_errors("replay", [] { throw Interrupted(); }), Interrupted);
}

// Attends to nothing, or throws what it was made with.
class StandInCache : public CachePolicy {
 public:
  explicit StandInCache(std::function<void()> on_attend) : on_attend_(std::move(on_attend)) {}
  at::Tensor attend(const AttentionCall& call) override {
    if (on_attend_) on_attend_();
    return call.q;
  }

 private:
  std::function<void()> on_attend_;
};

// Lets a script call kvtool.attention.
struct OpResolver : torch::jit::Resolver {
  std::shared_ptr<torch::jit::SugaredValue> resolveValue(
      const std::string& name, torch::jit::GraphFunction& function,
      const torch::jit::SourceRange& at) override {
    if (name == "kvtool") return std::make_shared<torch::jit::BuiltinModule>("kvtool");
    return torch::jit::nativeResolver()->resolveValue(name, function, at);
  }
};

// A model in TorchScript, whose interpreter would wrap what is thrown inside.
class ScriptErrorTest : public testing::Test {
 protected:
  ~ScriptErrorTest() override { fs::remove(path_); }

  // The error of a forward pass whose hidden states are `expression`.
  Error error_in(const std::string& expression, const std::function<void()>& on_attend = {}) {
    torch::jit::Module model("Model");
    model.define("def forward(self, input_ids, position_ids, logits_to_keep):\n  return " +
                     expression + "\n",
                 std::make_shared<OpResolver>());
    model.save(path_.string(), {{"kvtool.json", "{}"}, {"token_bytes.bin", "x"}});
    const LoadedScript loaded = load_script(path_.string(), at::kCPU);
    StandInCache cache(on_attend);
    const at::Tensor ids = at::zeros({1, 3}, at::kLong);
    return error_of([&] {
      static_cast<void>(
          run_forward(*loaded.module, cache, "step", ids, ids, at::zeros({1}, at::kLong)));
    });
  }

  const fs::path path_ =
      fs::temp_directory_path() / ("kvtool_script_error_" + std::to_string(::getpid()) + ".pt");
};

TEST_F(ScriptErrorTest, AShapeThatDoesNotFitIsABugInTorchsWords) {
  const Error error = error_in("input_ids + torch.zeros([2])");
  EXPECT_EQ(error.code(), ErrorCode::kInternal);
  EXPECT_THAT(error.what(), AllOf(HasSubstr("must match"), Not(HasSubstr("interpreter"))));
}

TEST_F(ScriptErrorTest, MemoryThatRunsOutIsTheEnvironment) {
  const Error error = error_in("torch.zeros([" + std::to_string(kTooManyBytes) + "])");
  EXPECT_EQ(error.code(), ErrorCode::kEnvironment);
  EXPECT_THAT(error.what(), HasSubstr("out of memory"));
}

TEST_F(ScriptErrorTest, WhatACacheThrowsArrivesAsItWasThrown) {
  const Error error = error_in(
      "kvtool.attention(torch.zeros([1, 1, 3, 2]), torch.zeros([1, 1, 3, 2]), "
      "torch.zeros([1, 1, 3, 2]), 0, 1.0, 0, 0.0, None)",
      [] { throw_incompatible("another layer"); });
  EXPECT_EQ(error.code(), ErrorCode::kIncompatible);
  EXPECT_STREQ(error.what(), "another layer");
}

}  // namespace
}  // namespace kvtool::engine
