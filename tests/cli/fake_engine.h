// An engine without torch: tokens, logits and K/V follow from the token ids by
// a formula, so that save, files and replay can be tested whole.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kvtool/engine/api.h"

namespace kvtool::cli {

// What a test sets before a run and looks at after it.
struct FakeEngineState {
  engine::DeviceInfo device{"cpu", 0, "CPU", "Fake CPU", R"({"torch_version": "9.9"})"};
  std::uint8_t weights = 1;  // first byte of the SHA-256
  std::uint64_t max_positions = 256;
  std::uint32_t vocab_size = 64;
  // May change what a replay computes at token `index` (0: prefill).
  std::function<void(std::uint64_t index, format::StepStats& stats)> perturb;
  // Called after every step of any batch.
  std::function<void(std::uint64_t batch, std::uint64_t step)> on_step;

  std::vector<std::string> loaded_models;
  std::vector<std::size_t> generated_batches;  // rows of each
  std::vector<engine::ReplayBatch> replayed_batches;
};

inline constexpr std::int32_t kFakeEos = 2;

[[nodiscard]] std::unique_ptr<engine::Engine> make_fake_engine(FakeEngineState& state);

}  // namespace kvtool::cli
