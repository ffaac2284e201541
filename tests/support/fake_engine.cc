#include "support/fake_engine.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <numeric>
#include <span>
#include <string>

#include "kvtool/base/error.h"
#include "kvtool/cache/cache_plan.h"
#include "kvtool/cache/key_budget.h"
#include "kvtool/cache/paged_settings.h"
#include "kvtool/format/logit_sample.h"
#include "kvtool/run/paths.h"
#include "support/fake_kv.h"

namespace kvtool {
namespace {

using fake_kv::block;
using fake_kv::Bytes;
using fake_kv::delta;
using fake_kv::geometry;
using fake_kv::mixed;
using fake_kv::Tokens;

std::uint32_t hash_of(const Tokens& context) {
  return std::accumulate(context.begin(), context.end(), 17U, [](std::uint32_t hash, int token) {
    return mixed(hash * 31U + static_cast<std::uint32_t>(token));
  });
}

// What a run is told of the statistics that it makes.
struct WantedStats {
  std::uint32_t vocab_size = 0;
  std::uint32_t top_k = 0;
  std::uint32_t logits_sample = 0;
};

// Of token number `token`, which the prefill (0) or the step before it yields. reference: the
// recorded ones in a replay.
format::StepStats stats_of(const Tokens& context, const WantedStats& wanted, std::uint64_t token,
                           const format::StepStats* reference = nullptr) {
  const std::uint32_t vocab_size = wanted.vocab_size;
  std::vector<float> logits(vocab_size);
  for (std::uint32_t i = 0; i < vocab_size; ++i) {
    logits[i] = static_cast<float>(mixed(hash_of(context) + i) % 4096U) / 256.0F;
  }
  std::vector<std::int32_t> ids(vocab_size);
  std::iota(ids.begin(), ids.end(), 0);
  const auto at = [&](std::int32_t id) { return logits[static_cast<std::size_t>(id)]; };
  std::stable_sort(ids.begin(), ids.end(), [&](auto a, auto b) { return at(a) > at(b); });
  format::StepStats stats;
  stats.input_token = token == 0 ? -1 : context.back();
  stats.token = ids.front();
  stats.elapsed_ns = 1000;
  stats.logits_digest = hash_of(context);
  double sum = 0.0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit));
  stats.logsumexp = std::log(sum);
  for (std::uint32_t i = 0; i < wanted.top_k; ++i) {
    stats.top_ids.push_back(ids[i]);
    stats.top_logits.push_back(at(ids[i]));
  }
  for (const std::int32_t id : format::sampled_ids(vocab_size, wanted.logits_sample, token)) {
    stats.sampled_logits.push_back(at(id));
  }
  if (reference != nullptr) {
    for (const std::int32_t id : reference->top_ids) stats.at_reference_top.push_back(at(id));
  }
  return stats;
}

// Where the top-k has been changed, the logits at other ids follow: each is that of the top-k where
// it has the id.
void follow_top(const WantedStats& wanted, std::uint64_t token, const format::StepStats& reference,
                format::StepStats& stats) {
  const auto follow = [&](const std::vector<std::int32_t>& ids, std::vector<float>& logits) {
    for (std::size_t i = 0; i < ids.size(); ++i) {
      const auto found = std::find(stats.top_ids.begin(), stats.top_ids.end(), ids[i]);
      if (found == stats.top_ids.end()) continue;
      logits[i] = stats.top_logits[static_cast<std::size_t>(found - stats.top_ids.begin())];
    }
  };
  follow(reference.top_ids, stats.at_reference_top);
  follow(format::sampled_ids(wanted.vocab_size, wanted.logits_sample, token), stats.sampled_logits);
}

void feed_prefill(format::RowSink& sink, const Tokens& prompt, const format::StepStats& stats) {
  for (std::uint32_t layer = 0; sink.needs().prefill_kv && layer < geometry().num_layers();
       ++layer) {
    sink.on_prefill_layer(layer, block(layer, false, prompt), block(layer, true, prompt));
  }
  sink.on_prefill_end(stats);
}

void feed_replayed_prefill(format::RowSink& sink, const format::RowSource& reference, bool injects,
                           const format::StepStats& stats) {
  const Tokens prompt(reference.prompt().begin(), reference.prompt().end());
  for (std::uint32_t layer = 0; sink.needs().prefill_kv && layer < geometry().num_layers();
       ++layer) {
    const Bytes own_key = block(layer, false, prompt);
    const Bytes own_value = block(layer, true, prompt);
    Bytes key(own_key.size());
    Bytes value(own_value.size());
    if (injects && reference.has_prefill_kv()) {
      reference.read_prefill_layer(layer, key, value);
      sink.on_reference_layer(layer, key, value);
    }
    sink.on_prefill_layer(layer, own_key, own_value);
  }
  sink.on_prefill_end(stats);
}

void feed_step(format::RowSink& sink, std::uint64_t step, const format::StepStats& stats) {
  sink.on_step(step, stats, sink.needs().step_kv ? delta(stats.input_token) : Bytes());
}

// One layer's row in a delta.
struct LayerRow {
  std::span<float> key;    // [2, 3]
  std::span<float> value;  // [2, 2]
};

LayerRow layer_row(Bytes& bytes, std::uint32_t layer) {
  const format::Geometry shape = geometry();
  const auto floats = [&](std::uint64_t offset, std::uint64_t size) {
    return std::span(reinterpret_cast<float*>(bytes.data() + offset), size / sizeof(float));
  };
  return {floats(shape.row_offset(layer).key, shape.layer(layer).key_bytes()),
          floats(shape.row_offset(layer).value, shape.layer(layer).value_bytes())};
}

void blend(std::span<float> right, std::span<const float> wrong, double strength) {
  for (std::size_t i = 0; i < right.size(); ++i) {
    right[i] += static_cast<float>(strength) * (wrong[i] - right[i]);
  }
}

std::vector<float> with_heads_swapped(std::span<const float> row) {
  std::vector<float> swapped(row.begin(), row.end());
  std::rotate(swapped.begin(), swapped.begin() + static_cast<std::ptrdiff_t>(row.size() / 2),
              swapped.end());
  return swapped;
}

std::vector<float> as_unscaled_int8(std::span<const float> row) {
  float maximum = 0.0F;
  for (const float x : row) maximum = std::max(maximum, std::abs(x));
  std::vector<float> integers;
  for (const float x : row) integers.push_back(std::round(x / (maximum / 127.0F)));
  return integers;
}

// Puts the fault into the row of `step`. There are no positions here, so the
// keys of the next one are the row's own, turned by one element.
void put_in(const engine::Fault& fault, std::uint64_t step, std::int32_t token_before,
            std::size_t batch_row, Bytes& bytes) {
  const LayerRow row = layer_row(bytes, fault.layer);
  switch (fault.kind) {
    case engine::FaultKind::kScaledValues:
      for (float& x : row.value) x += static_cast<float>(fault.strength) * x;
      return;
    case engine::FaultKind::kRotatedKeys: {
      std::vector<float> turned(row.key.begin(), row.key.end());
      std::rotate(turned.begin(), turned.begin() + 1, turned.end());
      blend(row.key, turned, fault.strength);
      return;
    }
    case engine::FaultKind::kSwappedHeads:
      blend(row.key, with_heads_swapped(row.key), fault.strength);
      blend(row.value, with_heads_swapped(row.value), fault.strength);
      return;
    case engine::FaultKind::kStaleRow: {
      if (step != fault.step) return;
      Bytes before = delta(token_before);
      const LayerRow stale = layer_row(before, fault.layer);
      blend(row.key, stale.key, fault.strength);
      blend(row.value, stale.value, fault.strength);
      return;
    }
    case engine::FaultKind::kUnscaledInt8Keys:
      blend(row.key, as_unscaled_int8(row.key), fault.strength);
      return;
    case engine::FaultKind::kNonfinite:
      if (step == fault.step && batch_row == 0) row.value[0] = std::nanf("");
      return;
  }
}

void feed_end(format::RowSink& sink, const Tokens& cached, format::StopReason reason) {
  for (std::uint32_t layer = 0; sink.needs().final_kv && layer < geometry().num_layers(); ++layer) {
    sink.on_final_layer(layer, block(layer, false, cached), block(layer, true, cached));
  }
  sink.on_end({reason, 0.5, 2.0});
}

engine::ModelInfo info_of(const FakeEngineState& state, const std::string& path) {
  const std::string stem = std::filesystem::path(path).stem().string();
  const auto id = state.model_ids.find(stem);
  engine::ModelInfo info;
  info.path = path;
  info.model_id = id == state.model_ids.end() ? "Fake/" + stem : id->second;
  info.slug = run::model_slug(id == state.model_ids.end() ? stem : id->second);
  info.architecture = "FakeForCausalLM";
  info.dtype = "float32";
  info.vocab_size = state.vocab_size;
  info.max_positions = state.max_positions;
  info.eos_token_ids = {kFakeEos};
  info.geometry = geometry();
  info.weights_sha256[0] = state.weights;
  info.metadata_json = state.metadata_json;
  return info;
}

// Of a batch whose longest input ends with so many positions.
cache::CacheUse applied_use(const cache::CacheSpec& kv_cache, std::uint64_t positions) {
  cache::CacheUse use;
  use.applied_rows = kv_cache == cache::CacheSpec() ? 0 : positions;
  use.most_visible_keys = use.visible_keys = positions;
  use.seen_keys = cache::KeyBudget(kv_cache).seen({positions - 1, 0});
  const bool pages =
      kv_cache.policy() == "paged" && cache::paged_settings(kv_cache).device != cache::Room();
  use.paged_out = use.read_back = pages ? 1 : 0;
  return use;
}

std::uint64_t planned_bytes(std::span<const engine::Input> inputs,
                            const engine::GenerateOptions& options) {
  std::uint64_t longest = 0;
  for (const engine::Input& input : inputs) {
    longest = std::max<std::uint64_t>(longest, input.token_ids.size());
  }
  return cache::plan_cache(geometry(),
                           {.rows = inputs.size(),
                            .positions = longest + options.max_new_tokens - 1,
                            .prompt = longest},
                           options.kv_cache)
      .physical_bytes();
}

class FakeModel : public engine::Model {
 public:
  FakeModel(FakeEngineState& state, const std::string& path)
      : state_(state), info_(info_of(state, path)) {
    for (std::uint32_t i = 0; i < state.vocab_size; ++i) {
      texts_.push_back(" t" + std::to_string(i));
    }
  }

  [[nodiscard]] const engine::ModelInfo& info() const override { return info_; }
  [[nodiscard]] std::string_view token_bytes(std::int32_t token) const override {
    return texts_.at(static_cast<std::size_t>(token));
  }

  engine::GenerateResult generate(std::span<const engine::Input> inputs,
                                  const engine::GenerateOptions& options,
                                  std::span<format::RowSink* const> sinks,
                                  const engine::Progress& progress) override {
    state_.generated_batches.push_back(inputs.size());
    state_.generate_options.push_back(options);
    const WantedStats wanted{info_.vocab_size, options.top_k, options.logits_sample};
    engine::GenerateResult result;
    result.timing = {0.5, 2.0, options.max_new_tokens - 1};
    if (options.count_memory) {
      result.memory = {"memory of the fake engine", 1000, 1500, 400, 0.0};
    }
    std::vector<Tokens> contexts;
    for (std::size_t row = 0; row < inputs.size(); ++row) {
      contexts.push_back(inputs[row].token_ids);
      auto stats = stats_of(contexts[row], wanted, 0);
      if (state_.generate_perturb) state_.generate_perturb(0, stats);
      result.rows.push_back({{stats.token}, format::StopReason::kMaxNewTokens});
      if (!sinks.empty() && sinks[row] != nullptr) feed_prefill(*sinks[row], contexts[row], stats);
    }
    progress(0, options.max_new_tokens - 1);
    for (std::uint64_t step = 0; step + 1 < options.max_new_tokens; ++step) {
      for (std::size_t row = 0; row < inputs.size(); ++row) {
        engine::GeneratedRow& generated = result.rows[row];
        if (!options.ignore_eos && generated.tokens.back() == kFakeEos) {
          generated.stop_reason = format::StopReason::kEndOfSequence;
          continue;
        }
        contexts[row].push_back(generated.tokens.back());
        auto stats = stats_of(contexts[row], wanted, step + 1);
        if (state_.generate_perturb) state_.generate_perturb(step + 1, stats);
        generated.tokens.push_back(stats.token);
        if (!sinks.empty() && sinks[row] != nullptr) feed_step(*sinks[row], step, stats);
      }
      tell_step(step);
      progress(step + 1, options.max_new_tokens - 1);
    }
    for (std::size_t row = 0; row < inputs.size(); ++row) {
      if (!sinks.empty() && sinks[row] != nullptr) {
        feed_end(*sinks[row], contexts[row], result.rows[row].stop_reason);
      }
    }
    ++batch_;
    std::size_t longest = 0;
    for (const Tokens& context : contexts) longest = std::max(longest, context.size());
    result.cache_use = use_of(options.kv_cache, longest);
    if (options.count_memory) result.cache_use.physical_bytes = planned_bytes(inputs, options);
    return result;
  }

  engine::ScoreResult score(std::span<const engine::ScoreInput> inputs,
                            const engine::ScoreOptions& options,
                            const engine::Progress& progress) override {
    state_.scored_batches.emplace_back(inputs.begin(), inputs.end());
    engine::ScoreResult result;
    result.timing = {0.5, 2.0, 0};
    std::size_t longest = 0;
    for (const engine::ScoreInput& input : inputs) {
      engine::ScoredText& text = result.texts.emplace_back();
      for (std::size_t at = input.prompt_length; at < input.token_ids.size(); ++at) {
        text.tokens.push_back(score_of(input, at));
        if (!state_.score_perturb) continue;
        state_.score_perturb(options.kv_cache, at - input.prompt_length, text.tokens.back());
      }
      longest = std::max(longest, input.token_ids.size());
    }
    progress(0, 0);
    result.cache_use = use_of(options.kv_cache, longest);
    return result;
  }

  engine::ReplayResult replay(const engine::ReplayBatch& batch,
                              const engine::ReplayOptions& options,
                              std::span<format::RowSink* const> sinks,
                              const engine::Progress& progress) override {
    state_.replayed_batches.push_back(batch);
    state_.replay_options.push_back(options);
    if (options.fault && options.fault->layer >= geometry().num_layers()) {
      throw_misuse("a fault in layer " + std::to_string(options.fault->layer) +
                   ": the model has 2 layers, counted from 0");
    }
    engine::ReplayResult result;
    std::uint64_t longest = 0;
    result.timing = {0.5, 2.0, 0};
    for (std::size_t row = 0; row < batch.rows.size(); ++row) {
      const format::RowSource& reference = *batch.rows[row].reference;
      if (!options.allow_different_weights &&
          reference.header().model_sha256 != info_.weights_sha256) {
        throw_incompatible("the recording is of other weights than " + info_.path);
      }
      result.own_step_kv.push_back(options.mode != format::ReplayMode::kInject ||
                                   !reference.has_step_kv());
      result.timing.decode_steps = std::max(result.timing.decode_steps, reference.num_steps());
      longest = std::max(longest, reference.prompt().size() + reference.num_steps());
      if (sinks[row] != nullptr) replay_row(reference, options, row, *sinks[row]);
    }
    for (std::uint64_t step = 0; step <= result.timing.decode_steps; ++step) {
      progress(step, result.timing.decode_steps);
      tell_step(step);
    }
    result.cache_use = use_of(options.kv_cache, longest);
    ++batch_;
    return result;
  }

 private:
  [[nodiscard]] engine::TokenScore score_of(const engine::ScoreInput& input, std::size_t at) const {
    const Tokens context(input.token_ids.begin(),
                         input.token_ids.begin() + static_cast<std::ptrdiff_t>(at));
    const format::StepStats stats =
        stats_of(context, {info_.vocab_size, info_.vocab_size, 0}, at - input.prompt_length);
    const auto place = std::ranges::find(stats.top_ids, input.token_ids[at]);
    const auto rank = static_cast<std::size_t>(place - stats.top_ids.begin());
    return {static_cast<double>(stats.top_logits.at(rank)) - stats.logsumexp, rank == 0};
  }

  [[nodiscard]] cache::CacheUse use_of(const cache::CacheSpec& kv_cache,
                                       std::uint64_t positions) const {
    return state_.cache_use ? state_.cache_use(kv_cache) : applied_use(kv_cache, positions);
  }

  void tell_step(std::uint64_t step) const {
    if (state_.on_step) state_.on_step(batch_, step);
  }

  void replay_row(const format::RowSource& reference, const engine::ReplayOptions& options,
                  std::size_t row, format::RowSink& sink) {
    const bool own_tokens = options.mode == format::ReplayMode::kFree;
    const WantedStats wanted{info_.vocab_size, reference.header().top_k,
                             reference.header().logits_sample};
    const format::StepStats recorded_prefill = reference.prefill_stats();
    Tokens context(reference.prompt().begin(), reference.prompt().end());
    format::StepStats stats = stats_of(context, wanted, 0, &recorded_prefill);
    perturb(wanted, 0, recorded_prefill, stats);
    const bool injects = options.mode == format::ReplayMode::kInject;
    feed_replayed_prefill(sink, reference, injects, stats);
    Bytes recorded(injects && reference.has_step_kv() ? geometry().delta_bytes() : 0);
    std::int32_t token = next_token(own_tokens, stats, recorded_prefill);
    for (std::uint64_t step = 0; step < reference.num_steps(); ++step) {
      context.push_back(token);
      const format::StepStats read = reference.read_step(step, recorded);
      stats = stats_of(context, wanted, step + 1, &read);
      perturb(wanted, step + 1, read, stats);
      if (!recorded.empty()) sink.on_reference_step(step, read, recorded);
      sink.on_step(step, stats,
                   sink.needs().step_kv ? replayed_delta(options, step, context, row) : Bytes());
      token = next_token(own_tokens, stats, read);
    }
    feed_end(sink, context, format::StopReason::kRecordingEnd);
  }

  void perturb(const WantedStats& wanted, std::uint64_t token, const format::StepStats& reference,
               format::StepStats& stats) const {
    if (!state_.perturb) return;
    state_.perturb(token, stats);
    follow_top(wanted, token, reference, stats);
  }

  // The row of the last token of `context` as a replay's cache holds it.
  [[nodiscard]] Bytes replayed_delta(const engine::ReplayOptions& options, std::uint64_t step,
                                     const Tokens& context, std::size_t row) const {
    Bytes bytes = delta(context.back());
    if (options.fault) put_in(*options.fault, step, context[context.size() - 2], row, bytes);
    for (std::uint32_t layer = 0; state_.perturb_delta && layer < geometry().num_layers();
         ++layer) {
      const LayerRow kv = layer_row(bytes, layer);
      state_.perturb_delta(step, layer, kv.key, kv.value);
    }
    return bytes;
  }

  // Falls back to the recorded token where there is no finite choice.
  static std::int32_t next_token(bool own_tokens, const format::StepStats& own,
                                 const format::StepStats& recorded) {
    return own_tokens && own.token >= 0 ? own.token : recorded.token;
  }

  FakeEngineState& state_;
  engine::ModelInfo info_;
  std::vector<std::string> texts_;
  std::uint64_t batch_ = 0;
};

class FakeEngine : public engine::Engine {
 public:
  explicit FakeEngine(FakeEngineState& state) : state_(state) {}
  [[nodiscard]] const engine::DeviceInfo& device() const override { return state_.device; }
  [[nodiscard]] std::string_view torch_version() const override { return "9.9"; }
  [[nodiscard]] engine::ModelInfo read_model_info(const std::string& path) override {
    return info_of(state_, path);
  }
  std::unique_ptr<engine::Model> load_model(const std::string& path) override {
    state_.loaded_models.push_back(path);
    return std::make_unique<FakeModel>(state_, path);
  }

 private:
  FakeEngineState& state_;
};

}  // namespace

std::string fake_metadata(int rope_theta, char graph, const std::string& transformers_version) {
  return nlohmann::json{
      {"torch_version", "9.9"},
      {"exporter_version", "1"},
      {"transformers_version", transformers_version},
      {"config", {{"rms_norm_eps", 1e-6}, {"rope_parameters", {{"rope_theta", rope_theta}}}}},
      {"config_sha256", std::string(60, '0') + std::to_string(rope_theta)},
      {"graph_sha256", std::string(64, graph)}}
      .dump();
}

std::unique_ptr<engine::Engine> make_fake_engine(FakeEngineState& state) {
  return std::make_unique<FakeEngine>(state);
}

}  // namespace kvtool
