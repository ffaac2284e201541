// Rows: the two interfaces through which K/V and statistics of one input flow.
// A RowSource is where recorded rows come from, a RowSink is where live rows
// go. Recording, comparing and re-recording are sinks; a live batch and a
// recording that is walked are what feeds them. K/V layouts are those of
// format/writer.h and Geometry.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kvtool/format/reader.h"
#include "kvtool/format/recording.h"
#include "kvtool/format/writer.h"

namespace kvtool::format {

enum class StopReason : std::uint8_t { kEndOfSequence, kMaxNewTokens, kRecordingEnd };
// "eos", "max_new_tokens", "recording_end".
[[nodiscard]] std::string_view stop_reason_name(StopReason reason);

struct RowEnd {
  StopReason stop_reason = StopReason::kMaxNewTokens;
  double prefill_seconds = 0.0;
  double decode_seconds = 0.0;  // of the whole batch that the row was part of
};

// Receives one row in the order: layers of the prefill ascending, prefill end,
// steps ascending, final layers ascending (on request), end. Calls come from
// one thread, not necessarily the one that created the sink. An exception
// stops the run with that error.
class RowSink {
 public:
  // What the sink wants to be handed; K/V that nobody wants is never copied.
  struct Needs {
    bool prefill_kv = true;
    bool step_kv = true;
    bool final_kv = false;
  };

  virtual ~RowSink() = default;
  [[nodiscard]] virtual Needs needs() const = 0;

  // key [num_kv_heads, prompt_length, key_dim], value likewise.
  virtual void on_prefill_layer(std::uint32_t layer, std::span<const std::byte> key,
                                std::span<const std::byte> value) = 0;
  virtual void on_prefill_end(const StepStats& stats) = 0;
  // delta: geometry.delta_bytes(), empty unless needs().step_kv.
  virtual void on_step(std::uint64_t step, const StepStats& stats,
                       std::span<const std::byte> delta) = 0;
  // What a replay has read of the row's reference for its own use, in the reference's geometry:
  // just before on_prefill_layer() of the layer and on_step() of the step, so that a comparison
  // need not read it again. Gone with the call that follows. Others take no notice.
  virtual void on_reference_layer(std::uint32_t /*layer*/, std::span<const std::byte> /*key*/,
                                  std::span<const std::byte> /*value*/) {}
  virtual void on_reference_step(std::uint64_t /*step*/, const StepStats& /*stats*/,
                                 std::span<const std::byte> /*delta*/) {}
  // key [num_kv_heads, prompt_length + steps, key_dim], value likewise.
  virtual void on_final_layer(std::uint32_t layer, std::span<const std::byte> key,
                              std::span<const std::byte> value) = 0;
  virtual void on_end(const RowEnd& end) = 0;
};

// A finished row that can be walked step by step, any number of times.
class RowSource {
 public:
  virtual ~RowSource() = default;

  [[nodiscard]] virtual const RecordingHeader& header() const = 0;
  [[nodiscard]] virtual std::span<const std::int32_t> prompt() const = 0;
  [[nodiscard]] virtual std::uint64_t num_steps() const = 0;
  // K/V of the prompt / of every step can be read.
  [[nodiscard]] virtual bool has_prefill_kv() const = 0;
  [[nodiscard]] virtual bool has_step_kv() const = 0;

  [[nodiscard]] virtual StepStats prefill_stats() const = 0;
  virtual void read_prefill_layer(std::uint32_t layer, std::span<std::byte> key,
                                  std::span<std::byte> value) const = 0;
  // Fills `delta` when it is not empty (needs has_step_kv()).
  [[nodiscard]] virtual StepStats read_step(std::uint64_t step,
                                            std::span<std::byte> delta) const = 0;
};

// A source that reads `recording`, which must outlive it.
[[nodiscard]] std::unique_ptr<RowSource> make_row_source(const Recording& recording);

// Hands the whole of `source` to `sink`, K/V where both sides have a use for it:
// what a run would do that produced this row again. `end` closes the row.
// Error kMisuse when the sink needs a final state.
void feed_row(const RowSource& source, RowSink& sink, const RowEnd& end);

// A sink that writes a recording. `token_text` turns a token id into its bytes
// for the summary's text and may be empty. finish() happens in on_end().
struct RecordingSinkOptions {
  std::filesystem::path path;
  RecordingHeader header;
  std::string meta_json;  // a JSON object
  std::vector<std::int32_t> prompt;
  std::function<std::string_view(std::int32_t)> token_text;
  WriterOptions writer;
};
[[nodiscard]] std::unique_ptr<RowSink> make_recording_sink(RecordingSinkOptions options);

// A sink that hands everything to each of `sinks` in turn (not owned).
[[nodiscard]] std::unique_ptr<RowSink> make_tee_sink(std::vector<RowSink*> sinks);

}  // namespace kvtool::format
