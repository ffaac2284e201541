// Turns prompts into token ids. Text and chat messages go through the Python
// helper encode_prompts.py, which reads the tokenizer inside the exported
// model; token ids need no Python.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kvtool/base/stop.h"
#include "kvtool/base/subprocess.h"
#include "kvtool/run/prompts.h"

namespace kvtool::run {

struct EncodedPrompt {
  std::vector<std::int32_t> token_ids;
  std::string text;  // after the chat template; empty for token ids, and for a text that was cut
  // The local time that the chat template has read: "2026-11-30T13:22:15.000001".
  std::string clock = {};
  std::vector<std::string> warnings = {};  // "begins with two ...": what the user should know
};

// Runs the helper on one JSON document; replaced in tests.
using EncoderProcess =
    std::function<ProcessResult(const std::filesystem::path& model, std::string_view input)>;

// $KVTOOL_PYTHON (else the interpreter kvtool was built with, else python3)
// running encode_prompts.py from $KVTOOL_PYTHON_DIR, the installation or the sources.
// Interrupted once `stop` is requested.
[[nodiscard]] ProcessResult run_encoder(const std::filesystem::path& model, std::string_view input,
                                        const StopToken& stop);

// One result per prompt. The process is started only when a prompt is not token
// ids. Chat templates see `clock` (as EncodedPrompt has it) where it is not empty, else the
// present time. Error kUsage for a prompt that cannot be encoded or has too few
// tokens for what it is cut to (naming its origin),
// kEnvironment when the helper is missing or fails.
[[nodiscard]] std::vector<EncodedPrompt> encode_prompts(std::span<const Prompt> prompts,
                                                        const std::filesystem::path& model,
                                                        const EncoderProcess& process,
                                                        const std::string& clock = {});

}  // namespace kvtool::run
