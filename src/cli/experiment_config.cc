#include "experiment_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "config_value.h"
#include "kvtool/base/error.h"
#include "kvtool/base/file.h"
#include "yaml_text.h"

namespace kvtool::cli {
namespace {

using nlohmann::json;

constexpr std::uint64_t kMaxExperimentBytes = std::uint64_t{16} << 20U;

bool is_yaml(const std::filesystem::path& path) {
  return path.extension() == ".yaml" || path.extension() == ".yml";
}

std::vector<std::uint64_t> as_counts(const Value& value) {
  if (value.node.is_number()) return {as_count(value)};
  std::vector<std::uint64_t> counts =
      as_list<std::uint64_t>(value, "an integer or an array of integers", as_count);
  if (counts.empty()) value.fail("at least one integer");
  return counts;
}

// Sampling needs a choice that greedy generation does not have.
void require_greedy(const Value& value, double greedy) {
  if (value.node.is_number() && value.node.get<double>() == greedy) return;
  throw_usage(
      fmt::format("{}: {}: generation is greedy, so that runs can be compared token by "
                  "token: leave it out, or say {:g}",
                  value.file, value.key, greedy));
}

void require_no_sampling(const Value& value) {
  if (!as_bool(value)) return;
  throw_usage(value.file + ": " + value.key +
              ": generation is greedy, so that runs can be compared token by token: leave it out");
}

void require_whole_weights(const Value& value) {
  if (value.node.is_boolean() && !value.node.get<bool>()) return;
  refuse_quantized_weights(value.file + ": " + value.key, as_string(value));
}

void take_device_pages(const Value& value, ExperimentChoices& choices) {
  const std::uint64_t pages = as_count(value);
  if (choices.max_device_pages && *choices.max_device_pages != pages) {
    throw_usage(value.file + ": " + value.key +
                ": max_device_pages and max_gpu_pages are the same: give one of them");
  }
  choices.max_device_pages = pages;
}

void take_contexts(const Value& value, ExperimentChoices& choices) {
  if (!choices.contexts.empty()) {
    throw_usage(value.file + ": " + value.key +
                ": context_length and context_lengths are the same: give one of them");
  }
  choices.contexts = as_counts(value);
}

ExperimentChoices as_choices(const Value& object) {
  ExperimentChoices choices;
  const auto name = [](std::optional<std::string>& target) {
    return [&target](const Value& v) { target = as_name(v); };
  };
  const auto count = [](std::optional<std::uint64_t>& target) {
    return [&target](const Value& v) { target = as_count(v); };
  };
  const auto pages = [&](const Value& v) { take_device_pages(v, choices); };
  const auto contexts = [&](const Value& v) { take_contexts(v, choices); };
  apply(object, {{"mode", name(choices.mode)},
                 {"model_name", name(choices.model)},
                 {"dtype", name(choices.dtype)},
                 {"context_length", contexts},
                 {"context_lengths", contexts},
                 {"num_runs", count(choices.runs)},
                 {"max_new_tokens", count(choices.max_new_tokens)},
                 {"page_size", count(choices.page_size)},
                 {"max_device_pages", pages},
                 {"max_gpu_pages", pages},
                 {"prefetch_k", count(choices.prefetch_k)},
                 {"batch_size", count(choices.batch_size)},
                 {"quantization", require_whole_weights},
                 {"temperature", [](const Value& v) { require_greedy(v, 0.0); }},
                 {"top_p", [](const Value& v) { require_greedy(v, 1.0); }},
                 {"top_k", [](const Value& v) { require_greedy(v, 1.0); }},
                 {"do_sample", require_no_sampling}});
  return choices;
}

struct Entries {
  ExperimentChoices defaults;
  std::vector<ExperimentChoices> entries;
};

std::vector<run::ExperimentSettings> settings_of(const Entries& read) {
  std::vector<run::ExperimentSettings> all;
  for (const ExperimentChoices& entry : read.entries) {
    run::ExperimentSettings& settings = all.emplace_back();
    read.defaults.apply_to(settings);
    entry.apply_to(settings);
  }
  return all;
}

std::filesystem::path beside(const Value& value) {
  return std::filesystem::path(value.file).parent_path() / as_name(value);
}

template <typename T>
void choose(const std::optional<T>& choice, T& target) {
  if (choice) target = *choice;
}

}  // namespace

void ExperimentChoices::apply_to(run::ExperimentSettings& settings) const {
  choose(mode, settings.mode);
  choose(model, settings.model);
  choose(dtype, settings.dtype);
  if (!contexts.empty()) settings.contexts = contexts;
  choose(runs, settings.runs);
  choose(max_new_tokens, settings.max_new_tokens);
  choose(page_size, settings.page_size);
  choose(max_device_pages, settings.max_device_pages);
  choose(prefetch_k, settings.prefetch_k);
  choose(batch_size, settings.batch_size);
}

void refuse_quantized_weights(const std::string& where, const std::string& quantization) {
  std::string name = quantization;
  std::ranges::transform(name, name.begin(),
                         [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  if (name == "none") return;
  throw_usage(where + ": '" + quantization +
              "': weights run as the exported file holds them, and none can be exported "
              "quantized yet: leave it out, or say none (mode quantized is about K/V)");
}

ExperimentConfig parse_experiment_config(std::string_view text, const std::filesystem::path& path) {
  const std::string file = path.string();
  const json document = is_yaml(path) ? parse_yaml_text(text, file)
                                      : run::parse_json_text(text, file, /*ignore_comments=*/true);
  if (!document.is_object()) {
    throw_usage(file + ": expected an object with the key experiments, found " +
                run::json_type_name(document));
  }
  ExperimentConfig config;
  config.path = path;
  Entries read;
  apply({document, file, ""},
        {{"experiments",
          [&](const Value& v) {
            read.entries = as_list<ExperimentChoices>(v, "an array of experiments", as_choices);
          }},
         {"defaults", [&](const Value& v) { read.defaults = as_choices(v); }},
         {"prompts", [&](const Value& v) { config.prompts = as_prompts(v); }},
         {"text", [&](const Value& v) { config.text = beside(v); }},
         {"output_dir", [&](const Value& v) { config.output_dir = as_name(v); }},
         {"device", [&](const Value& v) { config.device = as_name(v); }}});
  if (read.entries.empty()) throw_usage(file + ": experiments: there is none");
  config.experiments = settings_of(read);
  return config;
}

ExperimentConfig load_experiment_config(const std::filesystem::path& path) {
  return parse_experiment_config(read_text_file(path, kMaxExperimentBytes), path);
}

std::string default_experiment_config(const std::string& model, bool yaml) {
  const run::ExperimentSettings defaults;
  const char* comment = yaml ? "#" : "//";
  const char* end = yaml ? "" : ",";
  const auto key = [&](const char* name) {
    return yaml ? fmt::format("{}: ", name) : fmt::format("\"{}\": ", name);
  };
  const auto line = [&](const char* name, const std::string& value, const char* words) {
    return fmt::format("    {} {}\n    {}{}{}\n", comment, words, key(name), value, end);
  };
  std::string text = fmt::format(
      "{} kvtool experiment --config FILE; docs/experiment.md has every "
      "key.\n",
      comment);
  text += yaml ? "defaults:\n" : "{\n  \"defaults\": {\n";
  text += line("model_name", json(model).dump(),
               "An exported file, the id of one, or the folder of a checkpoint.");
  text += line("context_lengths", "[128, 512]", "Tokens of the prompts.");
  text += line("num_runs", std::to_string(defaults.runs), "Generations that are timed.");
  text += line("max_new_tokens", std::to_string(defaults.max_new_tokens), "Of each generation.");
  text += line("page_size", std::to_string(defaults.page_size), "Positions of a page.");
  text += line("max_device_pages", std::to_string(defaults.max_device_pages),
               "Pages of a layer and input that have room on the device.");
  text += line("prefetch_k", std::to_string(defaults.prefetch_k),
               "Pages that mode predictive fetches ahead of a step, at most.");
  text += fmt::format("    {}{}\n", key("batch_size"), defaults.batch_size);
  text += yaml ? "\n" : "  },\n\n";
  text += fmt::format("{}{} Or any K/V cache as its mode, such as int8 (docs/caches.md).\n",
                      yaml ? "" : "  ", comment);
  text += yaml ? "experiments:\n" : "  \"experiments\": [\n";
  for (const run::ExperimentMode& mode : run::kExperimentModes) {
    const bool last = mode.name == run::kExperimentModes.back().name;
    text += yaml ? fmt::format("  - mode: {}\n", mode.name)
                 : fmt::format("    {{\"mode\": \"{}\"}}{}\n", mode.name, last ? "" : ",");
  }
  return text + (yaml ? "" : "  ]\n}\n");
}

}  // namespace kvtool::cli
