// An engine without torch: tokens, logits and K/V follow from the token ids by
// a formula, so that save, files and replay can be tested whole. Its K/V depends
// on nothing but the fed token, so forced replay is the same as inject; faults
// change delta rows alone. In inject mode it reads the reference's K/V and hands it
// over, as the engine does.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kvtool/engine/api.h"

namespace kvtool {

// What a test sets before a run and looks at after it.
struct FakeEngineState {
  engine::DeviceInfo device{"cpu", 0, "CPU", "Fake CPU", R"({"torch_version": "9.9"})"};
  std::uint8_t weights = 1;  // first byte of the SHA-256
  std::uint64_t max_positions = 256;
  std::uint32_t vocab_size = 64;
  // May change what a replay computes at token `index` (0: prefill). In free mode
  // the token that it leaves is fed next.
  std::function<void(std::uint64_t index, format::StepStats& stats)> perturb;
  // The same for what a generation records; the tokens that are fed stay.
  std::function<void(std::uint64_t index, format::StepStats& stats)> generate_perturb;
  // May change one layer's row of a replay's step: key [2, 3], value [2, 2].
  std::function<void(std::uint64_t step, std::uint32_t layer, std::span<float> key,
                     std::span<float> value)>
      perturb_delta;
  // May change what score() says of a token that a cache gives: number `index` after the prompt.
  std::function<void(const cache::CacheSpec& kv_cache, std::uint64_t index,
                     engine::TokenScore& score)>
      score_perturb;
  // What a batch took; empty: what a cache takes that does what it says.
  std::function<cache::CacheUse(const cache::CacheSpec& kv_cache)> cache_use;
  // Called after every step of any batch.
  std::function<void(std::uint64_t batch, std::uint64_t step)> on_step;

  std::string metadata_json = R"({"torch_version": "9.9", "exporter_version": "1"})";
  // Ids of models by their file's stem; "Fake/" and the stem where there is none.
  std::map<std::string, std::string> model_ids = {};

  std::vector<std::string> loaded_models;
  std::vector<std::size_t> generated_batches;             // rows of each
  std::vector<engine::GenerateOptions> generate_options;  // of each
  std::vector<std::vector<engine::ScoreInput>> scored_batches;
  std::vector<engine::ReplayBatch> replayed_batches;
  std::vector<engine::ReplayOptions> replay_options;  // of each
};

// kvtool.json of a model with this config, for FakeEngineState.
[[nodiscard]] std::string fake_metadata(int rope_theta, char graph = 'b',
                                        const std::string& transformers_version = "5.17.0");

inline constexpr std::int32_t kFakeEos = 2;

[[nodiscard]] std::unique_ptr<engine::Engine> make_fake_engine(FakeEngineState& state);

}  // namespace kvtool
