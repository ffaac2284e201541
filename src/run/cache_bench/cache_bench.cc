#include "kvtool/run/cache_bench.h"

#include <algorithm>
#include <utility>

#include "compare_sides.h"
#include "kept_stats.h"
#include "kvtool/base/error.h"
#include "kvtool/base/setting.h"
#include "kvtool/base/text.h"
#include "kvtool/cache/cache_plan.h"
#include "run/session.h"
#include "run/timed_generation.h"

namespace kvtool::run {
namespace {

// What a run is for.
enum class Round { kUncounted, kCounted };

RunMemory memory_of(const engine::MemoryUse& use) {
  return {use.source, use.before_bytes, use.peak_bytes, use.tensor_bytes};
}

void add(const TimedGeneration& run, CacheBenchSide& side) {
  side.first_ms.push_back(run.first_ms);
  side.following_ms.insert(side.following_ms.end(), run.following_ms.begin(),
                           run.following_ms.end());
  side.total_ms.push_back(run.total_ms());
}

// One model at one context.
class ContextBench {
 public:
  ContextBench(Session& session, engine::Model& model, const CacheBenchRequest& request,
               std::vector<std::int32_t> prompt)
      : session_(session), model_(model), request_(request), prompt_(std::move(prompt)) {}

  CacheBenchLength measure() {
    const std::uint64_t new_tokens = request_.run.max_new_tokens;
    length_.context = prompt_.size();
    length_.positions = tokens_with_cache(length_.context, new_tokens);
    length_.with_cache.tokens_passed = length_.positions;
    length_.without_cache.tokens_passed = tokens_without_cache(length_.context, new_tokens);
    look_at_both();
    for (std::uint64_t repeat = 0; repeat < request_.repeats; ++repeat) {
      repeat_ = repeat + 1;
      // Who comes first changes, so that neither side always has the warmer machine.
      const bool cache_first = repeat % 2 == 0;
      time_side(cache_first);
      time_side(!cache_first);
    }
    return std::move(length_);
  }

 private:
  // The uncounted round: tokens, logits, memory.
  void look_at_both() {
    KeptStats with_cache;
    KeptStats without_cache;
    const TimedGeneration kept = run(true, Round::kUncounted, &with_cache);
    const TimedGeneration recomputed = run(false, Round::kUncounted, &without_cache);
    with_tokens_ = tokens_of(kept);
    without_tokens_ = tokens_of(recomputed);
    take_memory(kept.result, length_.with_cache);
    take_memory(recomputed.result, length_.without_cache);
    length_.use = kept.result.cache_use;
    if (kept.result.memory) length_.kv_copies_per_step = kept.result.memory->kv_copies_per_step;
    const cache::CachePlan plan = cache::plan_cache(
        model_.info().geometry, {.positions = length_.positions, .prompt = length_.context},
        request_.run.kv_cache.value_or(cache::CacheSpec()));
    length_.planned_bytes = plan.physical_bytes();
    length_.logical_bytes = plan.logical_bytes;
    length_.difference = first_difference(with_cache.stats(), without_cache.stats(), model_);
  }

  static void take_memory(const engine::GenerateResult& result, CacheBenchSide& side) {
    if (result.memory) side.memory = memory_of(*result.memory);
  }

  void time_side(bool with_cache) {
    CacheBenchSide& side = with_cache ? length_.with_cache : length_.without_cache;
    const TimedGeneration timed = run(with_cache, Round::kCounted, nullptr);
    add(timed, side);
    if (tokens_of(timed) != (with_cache ? with_tokens_ : without_tokens_)) side.repeatable = false;
  }

  [[nodiscard]] static const std::vector<std::int32_t>& tokens_of(const TimedGeneration& timed) {
    return timed.result.rows.at(0).tokens;
  }

  TimedGeneration run(bool with_cache, Round round, format::RowSink* sink) {
    const engine::Input input{prompt_};
    std::vector<format::RowSink*> sinks;
    if (sink != nullptr) sinks.push_back(sink);
    return time_generation(
        model_, {&input, 1},
        {.max_new_tokens = request_.run.max_new_tokens,
         .ignore_eos = true,
         .top_k = std::min(request_.run.top_k, model_.info().vocab_size),
         .logits_sample = std::min(request_.run.logits_sample, model_.info().vocab_size),
         .kv_cache = request_.run.kv_cache.value_or(cache::CacheSpec()),
         .recompute = !with_cache,
         .count_memory = round == Round::kUncounted},
        sinks, session_.progress(title(with_cache, round)));
  }

  [[nodiscard]] std::string title(bool with_cache, Round round) const {
    const std::string which = with_cache ? "with a cache" : "without a cache";
    const std::string when =
        round == Round::kUncounted
            ? "uncounted round"
            : "repeat " + std::to_string(repeat_) + "/" + std::to_string(request_.repeats);
    return "context " + std::to_string(prompt_.size()) + ", " + when + ", " + which;
  }

  Session& session_;
  engine::Model& model_;
  const CacheBenchRequest& request_;
  std::vector<std::int32_t> prompt_;
  std::uint64_t repeat_ = 0;
  std::vector<std::int32_t> with_tokens_;
  std::vector<std::int32_t> without_tokens_;
  CacheBenchLength length_;
};

class CacheBench {
 public:
  CacheBench(const CacheBenchRequest& request, const Services& services, Observer& observer)
      : request_(request), session_(services, request.run, observer) {}

  bool run() {
    if (request_.run.models.empty()) throw_usage("no model: give one with " + setting("model"));
    bool passed = true;
    for (const std::string& given : request_.run.models) {
      const CacheBenchResult result = run_model(resolve_model(given, request_.run.config_folder));
      session_.observer().progress_done();
      session_.observer().cache_bench(result);
      passed = passed && result.passed();
    }
    session_.finish();
    return passed;
  }

 private:
  CacheBenchResult run_model(const ModelFile& file) {
    // Before a model is loaded that may take minutes.
    const engine::ModelInfo info = session_.engine().read_model_info(file.path.string());
    CacheBenchResult result = describe(info);
    const std::vector<std::uint64_t> contexts = contexts_of(info, result.notes);
    const std::vector<std::vector<std::int32_t>> prompts = prompts_of(file, info, contexts);
    const std::unique_ptr<engine::Model> model = session_.load_model(file);
    for (const std::vector<std::int32_t>& prompt : prompts) {
      ContextBench bench(session_, *model, request_, prompt);
      result.lengths.push_back(bench.measure());
      note(result.lengths.back(), result.notes);
    }
    return result;
  }

  [[nodiscard]] CacheBenchResult describe(const engine::ModelInfo& info) const {
    CacheBenchResult result;
    result.model_slug = info.slug;
    result.model_id = info.model_id;
    result.dtype = info.dtype;
    result.cache = request_.run.kv_cache.value_or(cache::CacheSpec()).to_string();
    result.prompts = request_.text.empty() ? "token ids by a fixed rule" : request_.text.string();
    result.new_tokens = request_.run.max_new_tokens;
    result.repeats = request_.repeats;
    result.float32 = info.dtype == "float32";
    result.formula = position_formula(info.geometry);
    result.position_bytes = info.geometry.position_bytes();
    return result;
  }

  [[nodiscard]] std::vector<std::uint64_t> contexts_of(const engine::ModelInfo& info,
                                                       std::vector<std::string>& notes) const {
    const std::uint64_t more = request_.run.max_new_tokens - 1;
    const std::uint64_t limit = info.max_positions;
    if (limit != 0 && more >= limit) {
      throw_usage(info.model_id + " has " + std::to_string(limit) + " positions: " +
                  setting("max_new_tokens") + " can be " + std::to_string(limit) + " at most");
    }
    const std::uint64_t most = limit == 0 ? UINT64_MAX : limit - more;
    if (request_.contexts.empty()) return default_contexts(info, most, notes);
    for (const std::uint64_t context : request_.contexts) {
      if (context <= most) continue;
      throw_usage(setting("context") + " " + std::to_string(context) + " and " +
                  std::to_string(request_.run.max_new_tokens) + " new tokens need " +
                  std::to_string(context + more) + " positions, but " + info.model_id + " has " +
                  std::to_string(limit) + ": use " + setting("context") + " " +
                  std::to_string(most) + " at most, or fewer " + setting("max_new_tokens"));
    }
    return request_.contexts;
  }

  static std::vector<std::uint64_t> default_contexts(const engine::ModelInfo& info,
                                                     std::uint64_t most,
                                                     std::vector<std::string>& notes) {
    std::vector<std::uint64_t> contexts;
    for (const std::uint64_t context : kCacheBenchContexts) {
      if (context > most) {
        if (contexts.empty() || contexts.back() != most) contexts.push_back(most);
        notes.push_back("the longest prompt is of " + counted(most, "token") + ": " +
                        info.model_id + " has " + std::to_string(info.max_positions) +
                        " positions");
        break;
      }
      contexts.push_back(context);
    }
    return contexts;
  }

  [[nodiscard]] std::vector<std::vector<std::int32_t>> prompts_of(
      const ModelFile& file, const engine::ModelInfo& info,
      const std::vector<std::uint64_t>& contexts) const {
    std::vector<std::vector<std::int32_t>> prompts;
    if (request_.text.empty()) {
      for (const std::uint64_t context : contexts) {
        prompts.push_back(ruled_ids(context, info.vocab_size));
      }
      return prompts;
    }
    const std::vector<Prompt> texts = cut_text_prompts(request_.text, contexts);
    for (EncodedPrompt& encoded : encode_prompts(texts, file.path, session_.services().encoder)) {
      prompts.push_back(std::move(encoded.token_ids));
    }
    return prompts;
  }

  static void note(const CacheBenchLength& length, std::vector<std::string>& notes) {
    for (const auto& [side, words] : {std::pair{&length.with_cache, "with a cache"},
                                      std::pair{&length.without_cache, "without a cache"}}) {
      if (side->repeatable) continue;
      notes.push_back("context " + std::to_string(length.context) + ", " + words +
                      ": the repeats did not all choose the same tokens");
    }
  }

  const CacheBenchRequest& request_;
  Session session_;
};

}  // namespace

bool run_cache_bench(const CacheBenchRequest& request, const Services& services,
                     Observer& observer) {
  return CacheBench(request, services, observer).run();
}

}  // namespace kvtool::run
