// A loaded model on its device: what decoder and replayer work on.
#pragma once

#include <ATen/ATen.h>

#include <memory>

#include "engine/cache/spare_cache.h"
#include "engine/forward_module.h"
#include "engine/key_rotations.h"
#include "engine/row_layout.h"
#include "engine/token_table.h"
#include "kvtool/engine/api.h"

namespace kvtool::engine {

struct TorchModel {
  ModelInfo info;
  TokenTable tokens;
  RowLayout layout;
  std::unique_ptr<ForwardModule> module;
  at::Device device;
  KeyRotations rotations = {};
  // Between batches; refers to `layout`.
  SpareCache spare_cache = {};
};

// Model::generate, Model::score and Model::replay, see kvtool/engine/api.h.
GenerateResult generate(TorchModel& model, std::span<const Input> inputs,
                        const GenerateOptions& options, std::span<format::RowSink* const> sinks,
                        const Progress& progress);
ScoreResult score(TorchModel& model, std::span<const ScoreInput> inputs,
                  const ScoreOptions& options, const Progress& progress);
ReplayResult replay(TorchModel& model, const ReplayBatch& batch, const ReplayOptions& options,
                    std::span<format::RowSink* const> sinks, const Progress& progress);

// generate() with options.recompute, in an inference mode.
GenerateResult generate_without_cache(TorchModel& model, std::span<const Input> inputs,
                                      const GenerateOptions& options,
                                      std::span<format::RowSink* const> sinks,
                                      const Progress& progress);

// replay() with options.parallel. Error kUsage in the mode free, kMisuse with a fault.
ReplayResult replay_in_parallel(TorchModel& model, const ReplayBatch& batch,
                                const ReplayOptions& options,
                                std::span<format::RowSink* const> sinks, const Progress& progress);

}  // namespace kvtool::engine
