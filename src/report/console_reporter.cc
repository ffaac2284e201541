#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <cmath>
#include <ostream>

#include "kvtool/report/reporter.h"
#include "kvtool/report/text.h"

namespace kvtool::report {
namespace {

constexpr std::size_t kPromptCharacters = 400;
constexpr std::size_t kInfoTextCharacters = 200;
constexpr std::size_t kListedDivergences = 10;

constexpr const char* kRed = "\x1b[31m";
constexpr const char* kGreen = "\x1b[32m";
constexpr const char* kBold = "\x1b[1m";
constexpr const char* kReset = "\x1b[0m";

std::string megabytes(std::uint64_t bytes) {
  return fmt::format("{:.2f} MB", static_cast<double>(bytes) / 1e6);
}

std::string rate(double tokens_per_second_value) {
  return std::isfinite(tokens_per_second_value) ? fmt::format("{:.2f}", tokens_per_second_value)
                                                : "n/a";
}

// Rounded down, so that 100.0% means all.
std::string percentage(std::uint64_t part, std::uint64_t whole) {
  if (whole == 0) return "n/a";
  const double percent = 100.0 * static_cast<double>(part) / static_cast<double>(whole);
  return fmt::format("{:.1f}%", std::floor(percent * 10.0) / 10.0);
}

std::string place_of(std::uint64_t token_index) {
  return token_index == 0 ? std::string("prefill") : fmt::format("step {}", token_index - 1);
}

std::string describe_kv(const analysis::KvDifference& kv) {
  if (kv.elements == 0) return "not compared";
  if (kv.bitwise_equal()) return "bitwise equal";
  std::string text =
      fmt::format("relative L2 {:.2e}, max {:.2e}, {} of elements differ", kv.relative_l2(),
                  kv.relative_max(), percentage(kv.differing, kv.elements));
  if (kv.nonfinite > 0) text += fmt::format(", {} NaN or Inf", kv.nonfinite);
  return text;
}

std::string describe_class(analysis::TokenVerdict verdict) {
  switch (verdict) {
    case analysis::TokenVerdict::kMatch: return "match";
    case analysis::TokenVerdict::kTie: return "tie";
    case analysis::TokenVerdict::kNearTie: return "near-tie";
    case analysis::TokenVerdict::kHardFlip: return "hard flip";
  }
  return "unknown";
}

std::string describe_margin(const analysis::TokenComparison& token) {
  if (!std::isfinite(token.margin)) return "margin unknown (the recording has no top-2 logits)";
  if (!(token.ulp > 0.0)) return fmt::format("margin {:.4g}", token.margin);
  return fmt::format("margin {:.4g} = {:.3g} ulp (ulp {:.3g})", token.margin,
                     token.margin / token.ulp, token.ulp);
}

class ConsoleReporter : public Reporter {
 public:
  ConsoleReporter(std::ostream& out, ConsoleOptions options) : out_(out), options_(options) {}

  void begin(const RunDescription& run) override { command_ = run.command; }

  void device(const DeviceDescription& device) override {
    if (options_.quiet) return;
    line("Device: {}{}", printable(device.label),
         device.name.empty() ? "" : fmt::format(" ({})", printable(device.name)));
  }

  void model(const ModelDescription& model) override {
    if (options_.quiet) return;
    line("Model:  {} ({}, {} layers)", printable(model.id), printable(model.dtype),
         model.num_layers);
  }

  void input(const InputResult& input) override {
    if (options_.quiet) return;
    line("");
    line("{}", painted(kBold, heading(input)));
    if (input.replay) {
      line("From:   {}", printable(input.replay->recording));
      line("        recorded on {}, {}{}", printable(input.replay->recorded_device),
           input.replay->save_mode, input.replay->truncation.empty() ? "" : ", truncated");
    }
    line("Prompt: {} tokens", input.prompt_length);
    line("{}", indented(prompt_text(input.prompt_text), 4));
    if (input.generation) show_generation(input);
    if (input.replay) show_replay(input);
    if (input.saved) {
      line("Saved:  {} ({}, {})", printable(input.saved->path), megabytes(input.saved->bytes),
           input.saved->save_mode);
    }
    out_.flush();
  }

  void info(const InfoResult& info) override {
    if (!info.directory && info.recordings.size() == 1) {
      show_recording(info.recordings.front());
    } else {
      show_listing(info);
    }
  }

  void exported(const DumpResult& dump) override {
    line("Wrote {} ({}): K/V of {} after step {}", printable(dump.target), megabytes(dump.bytes),
         counted(dump.positions, "position"), dump.step);
  }

  void finish(const Summary& summary) override {
    if (summary.inputs == 0) {
      out_.flush();
      return;
    }
    if (!options_.quiet) line("");
    line("{}", painted(kBold, "Summary"));
    if (summary.replayed) {
      show_replay_summary(summary);
    } else {
      line("Inputs: {}, steps: {}, TPS: {}", summary.inputs, summary.steps,
           rate(tokens_per_second(summary.steps, summary.decode_seconds)));
    }
    if (summary.saved_recordings > 0) {
      line("Saved {} ({}) under", counted(summary.saved_recordings, "recording"),
           megabytes(summary.saved_bytes));
      line("    {}", printable(summary.saved_directory));
    }
    if (!summary.next_command.empty() && !options_.quiet) {
      line("Next:");
      line("    {}", printable(summary.next_command));
    }
    out_.flush();
  }

  void fail(int /*exit_status*/, const std::string& /*message*/) override { out_.flush(); }

 private:
  template <typename... Args>
  void line(fmt::format_string<Args...> format, Args&&... args) {
    out_ << fmt::format(format, std::forward<Args>(args)...) << '\n';
  }

  [[nodiscard]] std::string painted(const char* style, const std::string& text) const {
    return options_.color ? style + text + kReset : text;
  }

  static std::string heading(const InputResult& input) {
    if (input.rows <= 1) return fmt::format("Input {}", input.input_index);
    return fmt::format("Input {} (row {} of a batch of {})", input.input_index, input.row,
                       input.rows);
  }

  [[nodiscard]] std::string prompt_text(const std::string& bytes) const {
    const std::string text = printable(bytes);
    return options_.verbose ? text : shortened(text, kPromptCharacters);
  }

  void show_generation(const InputResult& input) {
    const Generation& generation = *input.generation;
    line("Output: {} tokens, stopped by {}", generation.tokens.size(), generation.stop_reason);
    line("{}", indented(printable(generation.text), 4));
    line("Steps: {}, TPS: {}", input.timing.steps,
         rate(tokens_per_second(input.timing.steps, input.timing.decode_seconds)));
  }

  // Bytes of matching tokens are joined before they are made printable, since
  // one character may be spread over several tokens.
  [[nodiscard]] std::string marked_text(const Replay& replay) const {
    std::string result;
    std::string pending;
    for (std::size_t i = 0; i < replay.texts.size(); ++i) {
      const TokenText& text = replay.texts[i];
      if (replay.comparison.tokens.at(i).verdict == analysis::TokenVerdict::kMatch) {
        pending += text.recorded;
        continue;
      }
      result += printable(pending);
      pending.clear();
      const bool predicted_nothing = replay.comparison.tokens.at(i).predicted < 0;
      const std::string mark = fmt::format(
          "[{}≠{}]",
          predicted_nothing ? "no finite logit" : printable(text.predicted, Newlines::kEscape),
          printable(text.recorded, Newlines::kEscape));
      result += painted(kRed, mark);
    }
    return result + printable(pending);
  }

  void show_replay(const InputResult& input) {
    const Replay& replay = *input.replay;
    const analysis::RowComparison& row = replay.comparison;
    line("Output: {} tokens, mismatches as [predicted≠recorded]", row.tokens.size());
    line("{}", indented(marked_text(replay), 4));
    if (!replay.reference_has_prefill_kv) {
      line("The recording holds no K/V: all ran on this device's own K/V.");
    } else if (replay.own_step_kv) {
      line("The steps ran on this device's own K/V: the recording holds none after");
      line("the prompt.");
    }
    const bool has_token0 = !row.tokens.empty();
    const bool token0_matches =
        has_token0 && row.tokens.front().verdict == analysis::TokenVerdict::kMatch;
    line("Prefill: token 0 {}, K/V {}",
         token0_matches ? "matches"
         : has_token0   ? "differs (" + describe_class(row.tokens.front().verdict) + ")"
                        : "not compared",
         describe_kv(row.prefill_kv));
    const std::uint64_t steps = row.tokens.empty() ? 0 : row.tokens.size() - 1;
    const std::uint64_t matches = row.matches() - (token0_matches ? 1 : 0);
    line("{}", painted(matches == steps ? kGreen : kRed,
                       fmt::format("Steps: {}, Match: {}/{} ({}), TPS: {}", steps, matches, steps,
                                   percentage(matches, steps),
                                   rate(tokens_per_second(steps, input.timing.decode_seconds)))));
    line("K/V of the steps: {}", describe_kv(row.step_kv));
    const bool logits_equal = std::all_of(row.tokens.begin(), row.tokens.end(),
                                          [](const auto& t) { return t.logits_equal; });
    line("Logits: {}", logits_equal ? "bitwise equal" : "differ in some bits");
    if (const auto index = row.first_divergence()) {
      const analysis::TokenComparison& token = row.tokens.at(*index);
      const TokenText& text = replay.texts.at(*index);
      line("First divergence: {}, {}", place_of(*index), describe_class(token.verdict));
      line("    predicted {} (id {}), recorded {} (id {})", quote(text.predicted), token.predicted,
           quote(text.recorded), token.recorded);
      line("    {}", describe_margin(token));
    }
    if (!replay.truncation.empty()) line("Truncated recording: {}", printable(replay.truncation));
  }

  void show_replay_summary(const Summary& summary) {
    const Summary::Replayed& replayed = *summary.replayed;
    line("Inputs: {}, fully matching: {}", summary.inputs, replayed.inputs_matching);
    line("Prefill: token 0 matches in {}/{}, K/V {}", replayed.prefill_matches, summary.inputs,
         describe_kv(replayed.prefill_kv));
    line("Steps: {}, Match: {}/{} ({}), TPS: {}", summary.steps, replayed.matches, summary.steps,
         percentage(replayed.matches, summary.steps),
         rate(tokens_per_second(summary.steps, summary.decode_seconds)));
    line("K/V of the steps: {}", describe_kv(replayed.step_kv));
    line("Logits: bitwise equal in {}/{}; logits and K/V: in {}/{}", replayed.inputs_logits_equal,
         summary.inputs, replayed.inputs_bitwise_equal, summary.inputs);
    line("Mismatches: {}, {}, {}", counted(replayed.ties, "tie"),
         counted(replayed.near_ties, "near-tie"), counted(replayed.hard_flips, "hard flip"));
    show_divergences(replayed);
    if (replayed.nonfinite_inputs > 0) {
      line("NaN or Inf in {}", counted(replayed.nonfinite_inputs, "input"));
    }
    line("Result: {}", replayed.failed ? painted(kRed, "FAIL (hard flip or non-finite values)")
                                       : painted(kGreen, "PASS"));
  }

  void show_divergences(const Summary::Replayed& replayed) {
    const auto& divergences = replayed.first_divergences;
    for (std::size_t i = 0; i < std::min(divergences.size(), kListedDivergences); ++i) {
      line("First divergence of batch{}_input{}: {}, {}", divergences[i].batch_size,
           divergences[i].input_index, place_of(divergences[i].token_index),
           describe_class(divergences[i].verdict));
    }
    if (divergences.size() > kListedDivergences) {
      line("... and in {} more", counted(divergences.size() - kListedDivergences, "input"));
    }
  }

  void show_recording(const RecordingInfo& info) {
    const auto row = [this](const char* name, const std::string& value) {
      if (!value.empty()) line("{:<14}{}", name, printable(value));
    };
    row("File:", info.path);
    row("Size:", megabytes(info.bytes));
    row("State:", info.complete ? "complete" : "truncated: " + info.truncation);
    row("Model:", info.model_id);
    row("Weights:", info.model_sha256);
    row("Dtype:", info.model_dtype);
    row("Device:", info.device_name.empty() ? info.device_label
                                            : info.device_label + " (" + info.device_name + ")");
    row("KV cache:",
        fmt::format("{}, {} layers, {} KV heads, key dim {}, value dim {}", info.kv_dtype,
                    info.num_layers, info.kv_heads, info.key_dim, info.value_dim));
    row("Save mode:", info.save_mode);
    row("Batch:", batch_text(info));
    row("Prompt:", counted(info.prompt_length, "token"));
    row("Generated:",
        fmt::format("{}, {}{}", counted(info.num_tokens, "token"),
                    counted(info.num_steps, "decode step"),
                    info.stop_reason.empty() ? "" : ", stopped by " + info.stop_reason));
    row("Logits:", fmt::format("top {} of {}", info.top_k, info.vocab_size));
    row("Created:", info.created_utc);
    row("Versions:", versions_text(info));
    row("UUID:", info.uuid);
    row("Replay of:", info.replay_of);
    show_text("Prompt text:", info.prompt_text);
    if (info.generated_text) show_text("Generated text:", *info.generated_text);
  }

  void show_text(const char* title, const std::string& bytes) {
    if (bytes.empty()) return;
    line("{}", title);
    const std::string text = printable(bytes);
    line("{}", indented(options_.verbose ? text : shortened(text, kInfoTextCharacters), 4));
  }

  static std::string batch_text(const RecordingInfo& info) {
    if (!info.batch_size) return {};
    std::string text = fmt::format("size {}", *info.batch_size);
    if (info.input_index) text += fmt::format(", input {}", *info.input_index);
    if (info.row && info.rows) text += fmt::format(", row {} of {}", *info.row, *info.rows);
    return text;
  }

  static std::string versions_text(const RecordingInfo& info) {
    std::string text;
    if (!info.kvtool_version.empty()) text = "kvtool " + info.kvtool_version;
    if (!info.torch_version.empty()) {
      text += (text.empty() ? "torch " : ", torch ") + info.torch_version;
    }
    return text;
  }

  void show_listing(const InfoResult& info) {
    std::uint64_t bytes = 0;
    std::size_t unreadable = 0;
    std::size_t truncated = 0;
    std::uint64_t tokens = 0;
    for (const RecordingInfo& recording : info.recordings) {
      bytes += recording.bytes;
      if (!recording.error.empty()) {
        ++unreadable;
        line("UNREADABLE  {}", printable(recording.path));
        line("            {}", printable(recording.error, Newlines::kEscape));
        continue;
      }
      tokens += recording.num_tokens;
      if (!recording.complete) ++truncated;
      line("{:>12}  {:<12}  {:>5} + {:>5} tokens  {}{}{}", megabytes(recording.bytes),
           recording.save_mode, recording.prompt_length, recording.num_tokens,
           printable(recording.path), recording.complete ? "" : "  (truncated)",
           recording.partial_name ? " (unfinished)" : "");
    }
    line("{}, {} in all, {} generated", counted(info.recordings.size(), "recording"),
         megabytes(bytes), counted(tokens, "token"));
    if (truncated > 0) line("{} truncated", truncated);
    if (unreadable > 0) line("{} unreadable", unreadable);
  }

  std::ostream& out_;
  ConsoleOptions options_;
  std::string command_;
};

}  // namespace

std::unique_ptr<Reporter> make_console_reporter(std::ostream& out, ConsoleOptions options) {
  return std::make_unique<ConsoleReporter>(out, options);
}

}  // namespace kvtool::report
