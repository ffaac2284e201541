#include "experiment_plan.h"

#include <fmt/format.h>

#include <algorithm>

#include "kvtool/base/error.h"
#include "kvtool/base/nearest.h"
#include "kvtool/base/setting.h"

namespace kvtool::run {
namespace {

// As cache::kWindowOptions has it.
constexpr std::uint64_t kWindowSinks = 4;
// quest always shows the first page and the last two.
constexpr std::uint64_t kLeastPages = 3;

std::string paged_spec(const ExperimentSettings& settings, const std::string& residency) {
  if (settings.max_device_pages < kLeastPages) {
    throw_usage(fmt::format(
        "{} {}: a step sees the first page and the last two in any case, so {} is the least",
        setting("max_device_pages"), settings.max_device_pages, kLeastPages));
  }
  return fmt::format("paged:page={},device={},residency={},select=quest,budget={}",
                     settings.page_size, settings.max_device_pages * settings.batch_size, residency,
                     settings.max_device_pages);
}

std::string window_spec(const ExperimentSettings& settings) {
  const std::uint64_t positions = settings.page_size * settings.max_device_pages;
  if (positions <= kWindowSinks) {
    throw_usage(fmt::format("{} {} of {} {} hold {} positions, and {} are sinks: give more",
                            setting("max_device_pages"), settings.max_device_pages,
                            setting("page_size"), settings.page_size, positions, kWindowSinks));
  }
  return fmt::format("window:sinks={},recent={}", kWindowSinks, positions - kWindowSinks);
}

std::string spec_text(const ExperimentSettings& settings) {
  if (settings.mode == kBaselineMode) return "contiguous";
  if (settings.mode == "reactive") return paged_spec(settings, "lru");
  if (settings.mode == "predictive") {
    return paged_spec(settings, fmt::format("predictive,prefetch={}", settings.prefetch_k));
  }
  if (settings.mode == "window") return window_spec(settings);
  if (settings.mode == "quantized") return "kivi";
  return settings.mode;
}

[[noreturn]] void throw_no_mode(const std::string& mode, const std::string& reason) {
  std::vector<std::string> names;
  std::string list;
  for (const ExperimentMode& known : kExperimentModes) {
    names.emplace_back(known.name);
    list += std::string(known.name) + ", ";
  }
  throw_usage(setting("mode") + " " + mode + " is none of " + list + "and no K/V cache" +
              suggestion(mode, names) + " (as a cache: " + reason + ")");
}

void check_numbers(const ExperimentSettings& settings) {
  if (settings.model.empty()) throw_usage("no model: give one with " + setting("model"));
  if (settings.contexts.empty()) throw_usage("no context length: give " + setting("context"));
  if (settings.max_new_tokens < 2) {
    throw_usage(setting("max_new_tokens") +
                " 1: a cache is read by the second token and later "
                "ones; give 2 at least");
  }
}

template <typename Range, typename Match>
auto& find_or_add(Range& range, const Match& match) {
  const auto found = std::ranges::find_if(range, match);
  return found == range.end() ? range.emplace_back() : *found;
}

void add_to_group(const Experiment& experiment, std::size_t index, ExperimentPlan& plan) {
  const ExperimentSettings& settings = experiment.settings;
  ModelExperiments& model = find_or_add(
      plan.models, [&](const ModelExperiments& each) { return each.model == settings.model; });
  model.model = settings.model;
  ExperimentGroup& group = find_or_add(model.groups, [&](const ExperimentGroup& each) {
    return each.context == experiment.asked_context && each.batch_size == settings.batch_size &&
           each.max_new_tokens == settings.max_new_tokens;
  });
  group.context = experiment.asked_context;
  group.batch_size = settings.batch_size;
  group.max_new_tokens = settings.max_new_tokens;
  group.experiments.push_back(index);
}

void add_entry(const ExperimentSettings& settings, std::size_t entry, ExperimentPlan& plan) {
  check_numbers(settings);
  const std::string spec = experiment_cache(settings).to_string();
  std::vector<std::uint64_t> planned;
  for (const std::uint64_t context : settings.contexts) {
    if (std::ranges::find(planned, context) != planned.end()) continue;
    planned.push_back(context);
    Experiment& experiment = plan.experiments.emplace_back();
    experiment.entry = entry;
    experiment.settings = settings;
    experiment.spec = spec;
    experiment.asked_context = experiment.context = context;
    add_to_group(experiment, plan.experiments.size() - 1, plan);
  }
}

}  // namespace

cache::CacheSpec experiment_cache(const ExperimentSettings& settings) {
  const std::string text = spec_text(settings);
  try {
    return cache::CacheSpec::parse(text);
  } catch (const Error& error) {
    if (text != settings.mode) throw;
    throw_no_mode(settings.mode, error.message());
  }
}

ExperimentPlan plan_experiments(const std::vector<ExperimentSettings>& settings) {
  if (settings.empty()) throw_usage("no experiment to run");
  ExperimentPlan plan;
  for (std::size_t i = 0; i < settings.size(); ++i) {
    try {
      add_entry(settings[i], i + 1, plan);
    } catch (const Error& error) {
      if (settings.size() == 1) throw;
      throw Error(error.code(), fmt::format("experiment {}: {}", i + 1, error.message()));
    }
  }
  return plan;
}

std::uint64_t fitting_context(std::uint64_t asked, std::uint64_t max_new_tokens,
                              const engine::ModelInfo& model) {
  if (model.max_positions == 0) return asked;
  // The last token is not fed.
  const std::uint64_t more = max_new_tokens - 1;
  if (more >= model.max_positions) {
    throw_usage(fmt::format("{} has {} positions: {} can be {} at most", model.model_id,
                            model.max_positions, setting("max_new_tokens"), model.max_positions));
  }
  return std::min(asked, model.max_positions - more);
}

}  // namespace kvtool::run
