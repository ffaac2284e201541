#include "lab_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "kvtool/base/setting.h"
#include "perplexity.h"
#include "run/replay_cache.h"

namespace kvtool::run {
namespace {

// Texts that are read together, and the tokens of all of them.
constexpr std::size_t kTextsPerBatch = 8;
constexpr std::size_t kTokensPerBatch = 8192;

std::size_t batch_for(std::uint64_t context, std::size_t texts) {
  const auto fit = static_cast<std::size_t>(kTokensPerBatch / context);
  return std::min(texts, std::clamp<std::size_t>(fit, 1, kTextsPerBatch));
}

// What caches did over several batches.
struct ReadUse {
  LabApplied applied;
  std::uint64_t moved_bytes = 0;

  void add(const cache::CacheUse& use) {
    applied.applied_rows += use.applied_rows;
    applied.visible_keys += use.visible_keys;
    applied.seen_keys += use.seen_keys;
    applied.paged_out += use.paged_out;
    moved_bytes += use.moved_bytes;
  }
  [[nodiscard]] bool acted() const {
    return applied.applied_rows > 0 || applied.seen_keys < applied.visible_keys ||
           applied.paged_out > 0 || moved_bytes > 0;
  }
};

std::uint64_t longest_of(std::span<const engine::ScoreInput> inputs) {
  std::uint64_t longest = 0;
  for (const engine::ScoreInput& input : inputs) {
    longest = std::max<std::uint64_t>(longest, input.token_ids.size());
  }
  return longest;
}

}  // namespace

LabReader::LabReader(engine::Model& model, const LabRequest& request, const LabPlan& plan,
                     const Services& services, std::span<const ReferenceSet> references)
    : model_(model),
      request_(request),
      plan_(plan),
      services_(services),
      recorded_(replay_cache({}, references.front().entries.front())),
      contexts_(lab_contexts(request.texts, model.info())) {
  const LabTextRequest& texts = request.texts;
  if (texts.perplexity || !texts.text.empty()) {
    text_ = read_lab_text(texts, model.info(), services, references);
  }
  for (const std::uint64_t context : contexts_) {
    if (texts.perplexity) windows_.push_back(windows_of(text_, context, texts));
    static_cast<void>(readers_of(context, kTextsPerBatch));
  }
  if (!texts.needles) return;
  const NeedleParts parts =
      needle_parts(texts, texts.text.empty() ? LabText() : text_, model.info(), services);
  filler_name_ = parts.filler_name;
  example_ = parts.texts.front().front().words;
  for (const std::uint64_t context : contexts_) needles_.push_back(needle_texts(parts, context));
}

std::vector<LabReader::Reader> LabReader::readers_of(std::uint64_t context,
                                                     std::size_t texts) const {
  const std::size_t batch = batch_for(context, texts);
  std::vector<Reader> readers;
  const auto add = [&](LabRole role, const std::string& name, const cache::CacheSpec& spec) {
    Reader& reader = readers.emplace_back(Reader{{}, spec, batch});
    reader.what.role = role;
    reader.what.name = name;
    reader.what.spec = spec.to_string();
  };
  add(LabRole::kFull, "full", recorded_);
  if (request_.controls) {
    add(LabRole::kNoise, "noise", recorded_);
    Reader& noise = readers.back();
    noise.batch = batch / 2;
    noise.what.note = fmt::format("{} instead of {} texts at a time", noise.batch, batch);
    if (batch < 2) noise.what.missing = "one text at a time: there is no smaller batch";
  }
  const std::uint64_t lengths[] = {context};
  for (const PlannedLabRow& row : plan_lab_rows(plan_, request_.controls, lengths)) {
    add(row.role, row.given + (row.budget.empty() ? "" : " " + row.budget), row.spec);
  }
  return readers;
}

std::optional<std::vector<engine::ScoredText>> LabReader::score(const Reader& reader,
                                                                const Inputs& inputs,
                                                                const engine::Progress& progress,
                                                                LabReading& what) {
  if (!what.missing.empty()) return std::nullopt;
  std::vector<engine::ScoredText> texts;
  ReadUse use;
  try {
    for (std::size_t at = 0; at < inputs.size(); at += reader.batch) {
      const auto part = std::span(inputs).subspan(at, std::min(reader.batch, inputs.size() - at));
      engine::ScoreResult result = model_.score(part, {.kv_cache = reader.spec}, progress);
      std::ranges::move(result.texts, std::back_inserter(texts));
      use.add(result.cache_use);
    }
  } catch (const Error& error) {
    services_.stop.throw_if_requested();
    what.missing = unmarked(error.message());
    if (!failure_) {
      failure_ = Error(error.code(), "reading through " + what.name + ": " + error.message());
    }
    return std::nullopt;
  }
  what.seen_share = use.applied.seen_share();
  what.acted = what.role != LabRole::kFull && what.role != LabRole::kNoise && use.acted();
  return texts;
}

void LabReader::read_windows(std::uint64_t context, const Inputs& windows,
                             const MakeProgress& progress, LabResult& result) {
  LabPerplexity& perplexity = result.perplexities.emplace_back();
  perplexity.text = text_.name;
  perplexity.context = std::min(context, longest_of(windows));
  perplexity.windows = windows.size();
  for (const engine::ScoreInput& window : windows) {
    perplexity.prompt += window.prompt_length;
    perplexity.tokens += window.token_ids.size() - window.prompt_length;
  }
  std::vector<double> full;
  const std::vector<Reader> readers = readers_of(context, windows.size());
  for (const Reader& reader : readers) {
    PerplexityRow& row = perplexity.rows.emplace_back();
    static_cast<LabReading&>(row) = reader.what;
    const auto words = fmt::format("perplexity at {}, {}/{}: {}", context, perplexity.rows.size(),
                                   readers.size(), row.name);
    const auto texts = score(reader, windows, progress(words), row);
    if (!texts) continue;
    const std::vector<double> losses = losses_of(*texts);
    take_perplexity(losses, full, row);
    if (row.role == LabRole::kFull) full = losses;
  }
}

void LabReader::read_needles(std::uint64_t context, const std::vector<NeedleText>& texts,
                             const MakeProgress& progress, LabResult& result) {
  LabNeedles& needles = result.needles.emplace_back();
  needles.text = filler_name_;
  needles.context = context;
  needles.texts = texts.size();
  needles.example = example_;
  Inputs inputs;
  for (const NeedleText& text : texts) inputs.push_back(text.input);
  std::vector<bool> full(texts.size() * kNeedles, false);
  const std::vector<Reader> readers = readers_of(context, texts.size());
  for (const Reader& reader : readers) {
    NeedleRow& row = needles.rows.emplace_back();
    static_cast<LabReading&>(row) = reader.what;
    const auto words = fmt::format("needles at {}, {}/{}: {}", context, needles.rows.size(),
                                   readers.size(), row.name);
    const auto scores = score(reader, inputs, progress(words), row);
    if (!scores) continue;
    if (row.role == LabRole::kFull) full = recalled_needles(texts, *scores);
    take_needles(texts, *scores, full, row);
  }
}

void LabReader::read(const MakeProgress& progress, LabResult& result) {
  for (std::size_t i = 0; i < contexts_.size(); ++i) {
    if (request_.texts.perplexity) read_windows(contexts_[i], windows_[i], progress, result);
    if (request_.texts.needles) read_needles(contexts_[i], needles_[i], progress, result);
  }
}

}  // namespace kvtool::run
