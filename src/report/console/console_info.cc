// Recordings on the console, as `kvtool info` shows them.
#include "console/console_page.h"
#include "wording.h"

namespace kvtool::report {
namespace {

constexpr std::size_t kInfoTextCharacters = 200;
constexpr std::size_t kNameWidth = 14;

std::string batch_text(const run::RecordingInfo& info) {
  if (!info.batch_size) return {};
  std::string text = fmt::format("size {}", *info.batch_size);
  if (info.input_index) text += fmt::format(", input {}", *info.input_index);
  if (info.row && info.rows) text += fmt::format(", row {} of {}", *info.row, *info.rows);
  return text;
}

std::string size_text(const run::RecordingInfo& info) {
  if (!info.unpacked_bytes) return megabytes(info.bytes);
  return fmt::format("{}, packed from {} ({})", megabytes(info.bytes),
                     megabytes(*info.unpacked_bytes),
                     packing_ratio(info.bytes, *info.unpacked_bytes));
}

std::string versions_text(const run::RecordingInfo& info) {
  std::string text;
  if (!info.kvtool_version.empty()) text = "kvtool " + info.kvtool_version;
  if (!info.torch_version.empty()) {
    text += (text.empty() ? "torch " : ", torch ") + info.torch_version;
  }
  return text;
}

class RecordingPart {
 public:
  RecordingPart(ConsolePage& page, const run::RecordingInfo& info) : page_(page), info_(info) {}

  void show() {
    path("File:", info_.path);
    row("Size:", size_text(info_));
    row("State:", info_.complete ? "complete" : "truncated: " + info_.truncation);
    row("Model:", info_.model_id);
    row("Weights:", info_.model_sha256);
    row("Config:", info_.config_sha256.empty() ? "unknown, from before configs were recorded"
                                               : info_.config_sha256);
    row("Traced graph:", info_.graph_sha256);
    row("Policy:", numerics_text(info_.numerics.policy));
    row("Platform:", numerics_text(info_.numerics.platform));
    row("Dtype:", info_.model_dtype);
    row("Device:", info_.device_name.empty() ? info_.device_label
                                             : info_.device_label + " (" + info_.device_name + ")");
    row("KV cache:",
        fmt::format("{}, {} layers, {} KV heads, key dim {}, value dim {}", info_.kv_dtype,
                    info_.num_layers, info_.kv_heads, info_.key_dim, info_.value_dim));
    row("Cache policy:", info_.kv_cache);
    row("Save mode:", info_.save_mode);
    row("Batch:", batch_text(info_));
    row("Prompt:", counted(info_.prompt_length, "token"));
    row("Generated:",
        fmt::format("{}, {}{}", counted(info_.num_tokens, "token"),
                    counted(info_.num_steps, "decode step"),
                    info_.stop_reason.empty() ? "" : ", stopped by " + info_.stop_reason));
    row("Logits:",
        fmt::format(
            "top {}{} of {}", info_.top_k,
            info_.logits_sample > 0 ? fmt::format(" and a sample of {}", info_.logits_sample) : "",
            info_.vocab_size));
    row("Created:", info_.created_utc);
    row("Versions:", versions_text(info_));
    row("UUID:", info_.uuid);
    path("Replay of:", info_.replay_of);
    row("Replay mode:", info_.replay_mode);
    show_provenance();
    show_text("Prompt text:", info_.prompt_text);
    if (info_.generated_text) show_text("Generated text:", *info_.generated_text);
  }

 private:
  void row(const char* name, const std::string& value) {
    if (value.empty()) return;
    page_.wrapped_line(fmt::format("{:<{}}{}", name, kNameWidth, one_line(value)), kNameWidth);
  }
  void path(const char* name, const std::string& value) {
    if (!value.empty()) page_.line("{:<{}}{}", name, kNameWidth, one_line(value));
  }

  void show_provenance() {
    if (info_.provenance.empty()) return;
    page_.line("Provenance:");
    for (const auto& [name, value] : info_.provenance) {
      page_.wrapped_line(fmt::format("    {}: {}", one_line(name), one_line(value)), 6);
    }
  }

  void show_text(const char* title, const std::string& bytes) {
    if (bytes.empty()) return;
    page_.line("{}", title);
    const std::string text = printable(bytes);
    page_.block(page_.options().verbose ? text : shortened(text, kInfoTextCharacters));
  }

  ConsolePage& page_;
  const run::RecordingInfo& info_;
};

void show_listed(ConsolePage& page, const run::RecordingInfo& recording) {
  if (!recording.error.empty()) {
    page.line("UNREADABLE  {}", one_line(recording.path));
    page.line("            {}", one_line(recording.error));
    return;
  }
  page.line("{:>12}  {:<12}  {:>5} + {:>5} tokens  {}{}{}{}", megabytes(recording.bytes),
            recording.save_mode, recording.prompt_length, recording.num_tokens,
            one_line(recording.path), recording.unpacked_bytes ? "  (packed)" : "",
            recording.complete ? "" : "  (truncated)",
            recording.partial_name ? " (unfinished)" : "");
}

void show_listing(ConsolePage& page, const run::InfoResult& info) {
  std::uint64_t bytes = 0;
  std::size_t unreadable = 0;
  std::size_t truncated = 0;
  std::uint64_t tokens = 0;
  for (const run::RecordingInfo& recording : info.recordings) {
    show_listed(page, recording);
    bytes += recording.bytes;
    if (!recording.error.empty()) {
      ++unreadable;
      continue;
    }
    tokens += recording.num_tokens;
    if (!recording.complete) ++truncated;
  }
  page.line("{}, {} in all, {} generated", counted(info.recordings.size(), "recording"),
            megabytes(bytes), counted(tokens, "token"));
  if (truncated > 0) page.line("{} truncated", truncated);
  if (unreadable > 0) page.line("{} unreadable", unreadable);
}

}  // namespace

void show_info(ConsolePage& page, const run::InfoResult& info) {
  if (!info.directory && info.recordings.size() == 1) {
    RecordingPart(page, info.recordings.front()).show();
  } else {
    show_listing(page, info);
  }
}

}  // namespace kvtool::report
