#include "kvtool/run/prompt_encoder.h"

#include <algorithm>
#include <limits>

#include "kvtool/base/error.h"
#include "kvtool/base/setting.h"
#include "kvtool/base/text.h"
#include "python_helper.h"

namespace kvtool::run {
namespace {

using nlohmann::json;

constexpr const char* kScript = "kvtool/encode_prompts.py";

std::filesystem::path script_path() {
  if (const auto found = find_python_file(kScript)) return *found;
  std::string looked_for;
  for (const auto& candidate : python_file_candidates(kScript)) {
    looked_for += "\n  " + candidate.string();
  }
  throw_environment(
      "text prompts need the Python helper encode_prompts.py, looked for:" + looked_for +
      "\nset KVTOOL_PYTHON_DIR to kvtool's python folder, or give token ids");
}

[[noreturn]] void throw_helper_error(const json& answer, int exit_status,
                                     std::span<const Prompt> prompts) {
  std::string message = answer["error"].get<std::string>();
  const json index = answer.value("prompt_index", json());
  if (index.is_number_unsigned() && index < prompts.size()) {
    const auto number = index.get<std::size_t>();
    const std::string prefix = "prompt " + std::to_string(number) + ": ";
    if (message.starts_with(prefix)) message.erase(0, prefix.size());
    message = prompts[number].origin + ": " + message;
  }
  if (exit_status == static_cast<int>(ErrorCode::kUsage)) throw_usage(message);
  throw_environment("prompts could not be encoded: " + message);
}

json parse_answer(const ProcessResult& result, std::span<const Prompt> prompts) {
  json answer = json::parse(result.output, nullptr, false);
  if (answer.is_object() && answer.contains("error") && answer["error"].is_string()) {
    throw_helper_error(answer, result.exit_status, prompts);
  }
  if (result.exit_status != 0 || !answer.is_object()) {
    throw_environment("the Python helper that encodes prompts failed (exit status " +
                      std::to_string(result.exit_status) + "): " + last_lines(result.error_output) +
                      "\nset KVTOOL_PYTHON to a Python with kvtool's packages, or give token ids");
  }
  return answer;
}

EncodedPrompt parse_encoded(const json& item) {
  EncodedPrompt encoded;
  const bool well_formed =
      item.is_object() && item.contains("token_ids") && item["token_ids"].is_array() &&
      std::all_of(item["token_ids"].begin(), item["token_ids"].end(), [](const json& id) {
        return id.is_number_integer() && id >= 0 && id <= std::numeric_limits<std::int32_t>::max();
      });
  if (!well_formed) throw_environment("the Python helper gave an answer without token ids");
  encoded.token_ids = item["token_ids"].get<std::vector<std::int32_t>>();
  if (item.contains("text") && item["text"].is_string()) encoded.text = item["text"];
  if (item.contains("clock") && item["clock"].is_string()) encoded.clock = item["clock"];
  for (const json& warning : item.value("warnings", json::array())) {
    if (warning.is_string()) encoded.warnings.push_back(warning);
  }
  return encoded;
}

std::vector<EncodedPrompt> encode_with_helper(std::span<const Prompt> prompts,
                                              const std::filesystem::path& model,
                                              const EncoderProcess& process,
                                              const std::string& clock) {
  json request = {{"prompts", json::array()}};
  if (!clock.empty()) request["clock"] = clock;
  for (const Prompt& prompt : prompts) request["prompts"].push_back(prompt.to_json());
  const ProcessResult result =
      process(model, request.dump(-1, ' ', true, json::error_handler_t::replace));
  const json answer = parse_answer(result, prompts);
  const json items = answer.value("prompts", json());
  if (!items.is_array() || items.size() != prompts.size()) {
    throw_environment("the Python helper answered for another number of prompts");
  }
  std::vector<EncodedPrompt> encoded;
  for (const json& item : items) encoded.push_back(parse_encoded(item));
  return encoded;
}

void cut(const Prompt& prompt, EncodedPrompt& encoded) {
  if (prompt.cut_to_tokens == 0) return;
  const std::size_t tokens = encoded.token_ids.size();
  if (tokens < prompt.cut_to_tokens) {
    throw_usage(prompt.origin + ": the text has only " + counted(tokens, "token") +
                " of this model: give a longer one, or " + setting("context") + " " +
                std::to_string(tokens) + " at most");
  }
  encoded.token_ids.resize(prompt.cut_to_tokens);
  encoded.text.clear();  // the tokens say which part of it
}

}  // namespace

ProcessResult run_encoder(const std::filesystem::path& model, std::string_view input,
                          const StopToken& stop) {
  const std::filesystem::path script = script_path();
  const std::string python = python_interpreter();
  try {
    return run_process({python, script.string(), "--model", model.string()}, input, stop);
  } catch (const Error& error) {
    throw_environment(std::string("text prompts need Python: ") + error.what() +
                      "; set KVTOOL_PYTHON to an interpreter, or give token ids");
  }
}

std::vector<EncodedPrompt> encode_prompts(std::span<const Prompt> prompts,
                                          const std::filesystem::path& model,
                                          const EncoderProcess& process, const std::string& clock) {
  const bool only_token_ids = std::all_of(prompts.begin(), prompts.end(), [](const Prompt& p) {
    return p.kind == Prompt::Kind::kTokenIds;
  });
  if (!only_token_ids) {
    std::vector<EncodedPrompt> encoded = encode_with_helper(prompts, model, process, clock);
    for (std::size_t i = 0; i < encoded.size(); ++i) {
      if (encoded[i].token_ids.empty()) throw_usage(prompts[i].origin + " has no token");
      cut(prompts[i], encoded[i]);
    }
    return encoded;
  }
  std::vector<EncodedPrompt> encoded;
  for (const Prompt& prompt : prompts)
    encoded.push_back({.token_ids = prompt.token_ids, .text = {}});
  return encoded;
}

}  // namespace kvtool::run
