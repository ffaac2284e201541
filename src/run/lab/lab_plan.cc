#include "lab_plan.h"

#include <algorithm>
#include <optional>

#include "kvtool/base/error.h"
#include "kvtool/base/setting.h"
#include "kvtool/cache/key_budget.h"

namespace kvtool::run {
namespace {

constexpr std::uint64_t kDefaultPage = 16;  // of controls of a window, as selection_options()
constexpr const char* kBudget = "budget";
constexpr const char* kWindow = "window";
constexpr const char* kRecent = "recent";
constexpr const char* kCodec = "codec";
constexpr const char* kControls[] = {"mass", kWindow, "random"};
constexpr const char* kFrameOptions[] = {"page", "sinks", kRecent, "dense"};

bool names_option(const std::string& given, const std::string& option) {
  const std::size_t colon = given.find(':');
  if (colon == std::string::npos) return false;
  return ("," + given.substr(colon + 1)).find("," + option + "=") != std::string::npos;
}

std::string with_option(const std::string& given, const std::string& option) {
  return given + (given.find(':') == std::string::npos ? ":" : ",") + option;
}

// "50%", "16 pages".
std::string amount_of(const cache::CacheSpec& pages) {
  return pages.word(kBudget) + (pages.is_share(kBudget) ? "" : " pages");
}

LabPolicy read_policy(const std::string& given) {
  LabPolicy policy{.given = given, .spec = {}};
  try {
    policy.spec = cache::CacheSpec::parse(given);
  } catch (const Error& error) {
    throw_usage(setting("policy") + " " + given + ": " + error.message());
  }
  const bool is_window = policy.spec.policy() == kWindow;
  policy.selects = is_window || policy.spec.has(kBudget);
  policy.is_open = policy.selects && !names_option(given, is_window ? kRecent : kBudget);
  return policy;
}

void refuse_repeated(const std::vector<LabPolicy>& policies) {
  for (std::size_t i = 0; i < policies.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      if (policies[i].spec != policies[j].spec || policies[i].is_open != policies[j].is_open) {
        continue;
      }
      throw_usage(setting("policy") + " " + policies[i].given +
                  (policies[i].given == policies[j].given
                       ? " is given twice"
                       : " is the same as " + policies[j].given) +
                  ": leave one of them out");
    }
  }
}

void refuse_idle_budgets(const LabRequest& request, const LabPlan& plan) {
  if (request.budgets.empty() || std::ranges::any_of(plan.policies, &LabPolicy::is_open)) return;
  std::string given;
  for (const LabPolicy& policy : plan.policies) given += (given.empty() ? "" : ", ") + policy.given;
  throw_usage(
      setting("budget") +
      " is for a policy that selects what a step sees and names no budget of its own, and " +
      given + (plan.policies.size() == 1 ? " is none" : " are none") + ": leave " +
      setting("budget") + " out, or add a policy such as " + setting("policy") + " quest");
}

std::uint64_t share_of_pages(std::uint64_t positions, std::uint64_t page) {
  return positions / page + (positions % page == 0 ? 0 : 1);
}

// The options by which a policy that selects pages is comparable with another one.
std::string page_frame(const cache::CacheSpec& spec) {
  std::string frame;
  for (const char* option : kFrameOptions) {
    frame += std::string(option) + "=" + std::to_string(spec.number(option)) + ",";
  }
  return frame + kCodec + "=" + spec.word(kCodec);
}

class RowPlanner {
 public:
  RowPlanner(bool controls, std::span<const std::uint64_t> lengths)
      : controls_(controls), lengths_(lengths), longest_(*std::ranges::max_element(lengths)) {}

  std::vector<PlannedLabRow> plan(const LabPlan& plan) {
    for (const LabPolicy& policy : plan.policies) {
      if (!policy.selects) {
        rows_.push_back({LabRole::kPolicy, policy.given, policy.spec, {}, {}});
      }
    }
    // By budget, so that what is compared stands together.
    for (const cache::Share& budget : plan.budgets) {
      for (const LabPolicy& policy : plan.policies) {
        if (policy.is_open) add(at_share(policy, budget), &budget);
      }
      add_controls(&budget);
    }
    for (const LabPolicy& policy : plan.policies) {
      if (policy.selects && !policy.is_open) add({policy.given, policy.spec}, nullptr);
    }
    add_controls(nullptr);
    return std::move(rows_);
  }

 private:
  struct Sized {
    std::string given;
    cache::CacheSpec spec;
  };

  [[nodiscard]] Sized at_share(const LabPolicy& policy, const cache::Share& budget) const {
    return {policy.given, spec_at(policy.given, policy.spec, budget)};
  }

  [[nodiscard]] cache::CacheSpec spec_at(const std::string& given, const cache::CacheSpec& spec,
                                         const cache::Share& budget) const {
    if (spec.policy() == kWindow) {
      return window_of(given, spec.number("sinks"), budget.of(longest_), budget.to_string());
    }
    return cache::CacheSpec::parse(
        with_option(given, std::string(kBudget) + "=" + budget.to_string()));
  }

  static cache::CacheSpec window_of(const std::string& given, std::uint64_t sinks,
                                    std::uint64_t positions, const std::string& budget) {
    if (positions <= sinks) {
      throw_usage(setting(kBudget) + " " + budget + " of " + given + ": " +
                  std::to_string(positions) + " positions, and " + std::to_string(sinks) +
                  " sinks are seen in any case: use a larger budget");
    }
    return cache::CacheSpec::parse(
        with_option(given, std::string(kRecent) + "=" + std::to_string(positions - sinks)));
  }

  void add(Sized sized, const cache::Share* budget, LabRole role = LabRole::kPolicy) {
    check(sized, budget);
    const bool is_window = sized.spec.policy() == kWindow;
    const cache::CacheSpec pages = is_window ? mass_beside(sized.spec, budget) : sized.spec;
    std::string frame =
        page_frame(pages) + " " + (budget != nullptr ? budget->to_string() : amount_of(pages));
    if (role == LabRole::kPolicy) remember_frame(frame, pages);
    rows_.push_back({role, std::move(sized.given), std::move(sized.spec),
                     budget != nullptr ? budget->to_string() : "", std::move(frame)});
  }

  // A policy of pages that shows as much as a window does.
  [[nodiscard]] cache::CacheSpec mass_beside(const cache::CacheSpec& window,
                                             const cache::Share* budget) const {
    const cache::CacheSpec open = cache::CacheSpec::parse("mass:codec=" + window.word("codec"));
    if (budget != nullptr) return spec_at("mass:codec=" + window.word("codec"), open, *budget);
    const std::uint64_t shown = window.number("sinks") + window.number(kRecent);
    const std::uint64_t least = open.number("sinks") + open.number(kRecent);
    return cache::CacheSpec::parse(
        "mass:codec=" + window.word("codec") +
        ",budget=" + std::to_string(std::max(least, share_of_pages(shown, kDefaultPage))));
  }

  void remember_frame(const std::string& frame, const cache::CacheSpec& pages) {
    for (const Frame& known : frames_) {
      if (known.name == frame) return;
    }
    frames_.push_back({frame, pages});
  }

  // Of the frames that policies have opened since the last call. At 100 % every choice is
  // everything, and the row of the full cache says what that is.
  void add_controls(const cache::Share* budget) {
    std::vector<Frame> frames = std::move(frames_);
    frames_.clear();
    if (!controls_ || (budget != nullptr && budget->is_all())) return;
    for (const Frame& frame : frames) {
      for (const char* name : kControls) add_control(name, frame, budget);
    }
  }

  struct Frame {
    std::string name;
    cache::CacheSpec pages;
  };

  void add_control(const std::string& name, const Frame& frame, const cache::Share* budget) {
    const bool there = std::ranges::any_of(rows_, [&](const PlannedLabRow& row) {
      return row.frame == frame.name && is_control(row.spec, name);
    });
    if (there) return;
    const std::string given = control_text(name, frame.pages);
    cache::CacheSpec spec;
    if (name == kWindow) {
      spec = control_window(given, positions_of(frame.pages, budget));
      // Frames of other pages share it.
      if (std::ranges::find(rows_, spec, &PlannedLabRow::spec) != rows_.end()) return;
    } else {
      spec = cache::CacheSpec::parse(
          with_option(given, std::string(kBudget) + "=" + frame.pages.word(kBudget)));
    }
    rows_.push_back({LabRole::kControl, given, std::move(spec),
                     budget != nullptr ? budget->to_string() : "", frame.name});
  }

  // A window whose keys have other positions is a policy of its own.
  static bool is_control(const cache::CacheSpec& spec, const std::string& name) {
    if (spec.has("positions") && spec.word("positions") != "original") return false;
    return cache::KeyBudget(spec).selection() == name;
  }

  static cache::CacheSpec control_window(const std::string& given, std::uint64_t positions) {
    const std::uint64_t usual = cache::CacheSpec::parse(given).number("sinks");
    const std::uint64_t sinks = positions > usual ? usual : positions / 2;
    return cache::CacheSpec::parse(
        with_option(with_option(given, "sinks=" + std::to_string(sinks)),
                    std::string(kRecent) + "=" + std::to_string(positions - sinks)));
  }

  // "mass", with the options in which the frame is not what the policy does by itself.
  static std::string control_text(const std::string& name, const cache::CacheSpec& pages) {
    const cache::CacheSpec plain = cache::CacheSpec::parse(name);
    std::string text = name;
    for (const char* option : kFrameOptions) {
      if (name == kWindow || pages.number(option) == plain.number(option)) continue;
      text = with_option(text, std::string(option) + "=" + std::to_string(pages.number(option)));
    }
    if (pages.word(kCodec) == plain.word(kCodec)) return text;
    return with_option(text, std::string(kCodec) + "=" + pages.word(kCodec));
  }

  // Positions that a window of this budget shows.
  [[nodiscard]] std::uint64_t positions_of(const cache::CacheSpec& pages,
                                           const cache::Share* budget) const {
    if (budget != nullptr) return budget->of(longest_);
    if (pages.is_share(kBudget)) return pages.share(kBudget).of(longest_);
    return pages.number(kBudget) * pages.number("page");
  }

  // What the engine would refuse after minutes.
  void check(const Sized& sized, const cache::Share* budget) const {
    for (const std::uint64_t positions : lengths_) {
      try {
        cache::KeyBudget(sized.spec).check(positions);
      } catch (const Error& error) {
        const std::string what = budget != nullptr ? setting(kBudget) + " " + budget->to_string() +
                                                         " of " + sized.given + " is too small: "
                                                   : "";
        std::string message = error.message();
        const std::string option = setting("kv_cache");
        if (message.starts_with(option)) message.replace(0, option.size(), setting("policy"));
        throw_usage(what + message);
      }
    }
  }

  bool controls_;
  std::span<const std::uint64_t> lengths_;
  std::uint64_t longest_;
  std::vector<PlannedLabRow> rows_;
  std::vector<Frame> frames_;
};

}  // namespace

cache::Share read_budget(std::string_view text) {
  const std::string with_sign = std::string(text) + (text.ends_with('%') ? "" : "%");
  const std::optional<cache::Share> share = cache::Share::parse(with_sign);
  if (share && !share->is_none()) return *share;
  throw_usage(setting(kBudget) + " " + std::string(text) +
              ": expected a share of an input above 0% and up to 100%, such as 25% or 12.5%");
}

std::vector<cache::CacheSpec> LabPlan::specs() const {
  std::vector<cache::CacheSpec> specs;
  for (const LabPolicy& policy : policies) specs.push_back(policy.spec);
  return specs;
}

LabPlan read_lab_plan(const LabRequest& request) {
  if (request.policies.empty() && !request.sensitivity && !request.texts.reads()) {
    throw_usage("no policy to compare: name one with " + setting("policy") +
                ", such as quest, int8 or kivi:k=4,v=4");
  }
  if (request.policies.empty() && request.breakeven) {
    throw_usage("no policy whose time to compare with that of full, as " + setting("breakeven") +
                " does: name one with " + setting("policy"));
  }
  LabPlan plan;
  for (const std::string& given : request.policies) plan.policies.push_back(read_policy(given));
  refuse_repeated(plan.policies);
  for (const std::string& budget : request.budgets) {
    plan.budgets.push_back(read_budget(budget));
  }
  refuse_idle_budgets(request, plan);
  if (request.budgets.empty()) {
    for (const std::string_view budget : kLabBudgets) {
      plan.budgets.push_back(read_budget(budget));
    }
  }
  std::sort(plan.budgets.begin(), plan.budgets.end(), std::greater<>());
  plan.budgets.erase(std::unique(plan.budgets.begin(), plan.budgets.end()), plan.budgets.end());
  return plan;
}

std::vector<PlannedLabRow> plan_lab_rows(const LabPlan& plan, bool controls,
                                         std::span<const std::uint64_t> lengths) {
  return RowPlanner(controls, lengths).plan(plan);
}

}  // namespace kvtool::run
