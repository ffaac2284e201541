#include "kvtool/format/row.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "kvtool/base/error.h"

namespace kvtool::format {
namespace {

class RecordingRowSource final : public RowSource {
 public:
  explicit RecordingRowSource(const Recording& recording) : recording_(recording) {}

  [[nodiscard]] const RecordingHeader& header() const override { return recording_.header(); }
  [[nodiscard]] std::span<const std::int32_t> prompt() const override {
    return recording_.prompt();
  }
  [[nodiscard]] std::uint64_t num_steps() const override { return recording_.num_steps(); }
  // A truncated final_only file has statistics, but no K/V at all.
  [[nodiscard]] bool has_prefill_kv() const override {
    return recording_.has_prefill() && recording_.num_cached_positions() >= header().prompt_length;
  }
  [[nodiscard]] bool has_step_kv() const override { return recording_.has_deltas(); }

  [[nodiscard]] StepStats prefill_stats() const override { return recording_.read_prefill_stats(); }
  void read_prefill_layer(std::uint32_t layer, std::span<std::byte> key,
                          std::span<std::byte> value) const override {
    recording_.read_layer(layer, header().prompt_length, key, value);
  }
  [[nodiscard]] StepStats read_step(std::uint64_t step, std::span<std::byte> delta) const override {
    if (delta.empty()) return recording_.read_step_stats(step);
    return recording_.read_step(step, delta);
  }

 private:
  const Recording& recording_;
};

// Cut multi-byte characters and stray bytes become U+FFFD. nlohmann's
// serializer is the one UTF-8 decoder that this room may use.
std::string valid_utf8(const std::string& bytes) {
  const nlohmann::json json = bytes;
  return nlohmann::json::parse(json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace))
      .get<std::string>();
}

nlohmann::json parse_meta(const std::string& text, const std::filesystem::path& path) {
  nlohmann::json meta = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!meta.is_object()) {
    throw_misuse(path.string() + ": the metadata of a recording must be a JSON object");
  }
  return meta;
}

class RecordingSink final : public RowSink {
 public:
  explicit RecordingSink(RecordingSinkOptions options)
      : save_mode_(options.header.save_mode),
        token_text_(std::move(options.token_text)),
        writer_(options.path, std::move(options.header),
                parse_meta(options.meta_json, options.path), options.prompt, options.writer) {}

  [[nodiscard]] Needs needs() const override {
    return {.prefill_kv = save_mode_ != SaveMode::kFinalOnly,
            .step_kv = save_mode_ == SaveMode::kDelta,
            .final_kv = save_mode_ == SaveMode::kFinalOnly};
  }

  void on_prefill_layer(std::uint32_t layer, std::span<const std::byte> key,
                        std::span<const std::byte> value) override {
    writer_.write_prefill_layer(layer, key, value);
  }
  void on_prefill_end(const StepStats& stats) override {
    writer_.write_prefill_end(stats);
    append_token(stats.token);
  }
  void on_step(std::uint64_t step, const StepStats& stats,
               std::span<const std::byte> delta) override {
    if (step + 1 != tokens_) {
      throw_misuse(writer_.path().string() + ": step " + std::to_string(step) +
                   " was handed over where step " + std::to_string(tokens_ - 1) + " was due");
    }
    writer_.write_step(stats, delta);
    append_token(stats.token);
  }
  void on_final_layer(std::uint32_t layer, std::span<const std::byte> key,
                      std::span<const std::byte> value) override {
    writer_.write_final_layer(layer, key, value);
  }
  void on_end(const RowEnd& end) override {
    writer_.finish({{"stop_reason", stop_reason_name(end.stop_reason)},
                    {"tokens", tokens_},
                    {"steps", tokens_ == 0 ? 0 : tokens_ - 1},
                    {"text", valid_utf8(text_)},
                    {"prefill_seconds", end.prefill_seconds},
                    {"decode_seconds", end.decode_seconds}});
  }

 private:
  void append_token(std::int32_t token) {
    ++tokens_;
    if (token_text_ && token >= 0) text_ += token_text_(token);
  }

  SaveMode save_mode_;
  std::function<std::string_view(std::int32_t)> token_text_;
  RecordingWriter writer_;
  std::uint64_t tokens_ = 0;
  std::string text_;
};

// Each sink gets what its own needs() ask for, so that none sees K/V only
// because its neighbour wanted it.
class TeeSink final : public RowSink {
 public:
  explicit TeeSink(const std::vector<RowSink*>& sinks) {
    for (RowSink* sink : sinks) {
      if (sink != nullptr) branches_.push_back({sink, sink->needs()});
    }
  }

  [[nodiscard]] Needs needs() const override {
    Needs all{.prefill_kv = false, .step_kv = false, .final_kv = false};
    for (const Branch& branch : branches_) {
      all.prefill_kv |= branch.needs.prefill_kv;
      all.step_kv |= branch.needs.step_kv;
      all.final_kv |= branch.needs.final_kv;
    }
    return all;
  }

  void on_prefill_layer(std::uint32_t layer, std::span<const std::byte> key,
                        std::span<const std::byte> value) override {
    for (const Branch& branch : branches_) {
      if (branch.needs.prefill_kv) branch.sink->on_prefill_layer(layer, key, value);
    }
  }
  void on_prefill_end(const StepStats& stats) override {
    for (const Branch& branch : branches_) branch.sink->on_prefill_end(stats);
  }
  void on_step(std::uint64_t step, const StepStats& stats,
               std::span<const std::byte> delta) override {
    for (const Branch& branch : branches_) {
      branch.sink->on_step(step, stats,
                           branch.needs.step_kv ? delta : std::span<const std::byte>());
    }
  }
  void on_reference_layer(std::uint32_t layer, std::span<const std::byte> key,
                          std::span<const std::byte> value) override {
    for (const Branch& branch : branches_) {
      if (branch.needs.prefill_kv) branch.sink->on_reference_layer(layer, key, value);
    }
  }
  void on_reference_step(std::uint64_t step, const StepStats& stats,
                         std::span<const std::byte> delta) override {
    for (const Branch& branch : branches_) {
      if (branch.needs.step_kv) branch.sink->on_reference_step(step, stats, delta);
    }
  }
  void on_final_layer(std::uint32_t layer, std::span<const std::byte> key,
                      std::span<const std::byte> value) override {
    for (const Branch& branch : branches_) {
      if (branch.needs.final_kv) branch.sink->on_final_layer(layer, key, value);
    }
  }
  void on_end(const RowEnd& end) override {
    for (const Branch& branch : branches_) branch.sink->on_end(end);
  }

 private:
  struct Branch {
    RowSink* sink;
    Needs needs;
  };
  std::vector<Branch> branches_;
};

}  // namespace

std::string_view stop_reason_name(StopReason reason) {
  switch (reason) {
    case StopReason::kEndOfSequence: return "eos";
    case StopReason::kMaxNewTokens: return "max_new_tokens";
    case StopReason::kRecordingEnd: return "recording_end";
  }
  return "unknown";
}

void feed_row(const RowSource& source, RowSink& sink, const RowEnd& end) {
  const RowSink::Needs needs = sink.needs();
  if (needs.final_kv)
    throw_misuse("a recorded row cannot be handed to a sink that needs its end state");
  const RecordingHeader& header = source.header();
  if (needs.prefill_kv && source.has_prefill_kv()) {
    std::vector<std::byte> key;
    std::vector<std::byte> value;
    for (std::uint32_t layer = 0; layer < header.geometry.num_layers(); ++layer) {
      key.resize(header.geometry.layer(layer).key_bytes() * header.prompt_length);
      value.resize(header.geometry.layer(layer).value_bytes() * header.prompt_length);
      source.read_prefill_layer(layer, key, value);
      sink.on_prefill_layer(layer, key, value);
    }
  }
  sink.on_prefill_end(source.prefill_stats());
  std::vector<std::byte> delta(needs.step_kv && source.has_step_kv() ? header.geometry.delta_bytes()
                                                                     : 0);
  for (std::uint64_t step = 0; step < source.num_steps(); ++step) {
    const StepStats stats = source.read_step(step, delta);
    sink.on_step(step, stats, delta);
  }
  sink.on_end(end);
}

std::unique_ptr<RowSource> make_row_source(const Recording& recording) {
  return std::make_unique<RecordingRowSource>(recording);
}

std::unique_ptr<RowSink> make_recording_sink(RecordingSinkOptions options) {
  return std::make_unique<RecordingSink>(std::move(options));
}

std::unique_ptr<RowSink> make_tee_sink(std::vector<RowSink*> sinks) {
  return std::make_unique<TeeSink>(sinks);
}

}  // namespace kvtool::format
