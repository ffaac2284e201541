// Comparisons of many inputs of one model, summed up, and the flat list of
// figures that gates judge.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kvtool/analysis/row_comparison.h"
#include "kvtool/format/replay_mode.h"

namespace kvtool::analysis {

struct InputName {
  std::uint64_t batch_size = 0;
  std::uint64_t input_index = 0;
};
// "batch4_input2".
[[nodiscard]] std::string to_string(const InputName& input);

struct TokenSummary {
  std::uint64_t inputs = 0;
  std::uint64_t inputs_matching = 0;  // every compared token matches, none was left uncompared
  std::uint64_t compared = 0;
  std::uint64_t uncompared = 0;  // after the contexts parted
  std::uint64_t matches = 0;
  std::uint64_t ties = 0;
  std::uint64_t noise_flips = 0;  // verdict "noise"
  std::uint64_t near_ties = 0;
  std::uint64_t hard_flips = 0;
  std::uint64_t nonfinite = 0;  // tokens with NaN or Inf in the statistics of either side

  // Counts a compared token by its verdict.
  void add(const TokenComparison& token);

  // matches / compared and its one-sided 95 % Clopper-Pearson lower bound.
  [[nodiscard]] std::optional<double> match_rate() const;
  [[nodiscard]] std::optional<double> match_rate_lower95() const;
  // (ties + noise + near-ties) / compared.
  [[nodiscard]] std::optional<double> tie_rate() const;
  // (matches + ties + noise + near-ties) / compared, its lower bound.
  [[nodiscard]] std::optional<double> explained_rate_lower95() const;
};

// Tokens of another choice, beside how many noise alone makes. Empty when of no token both were
// known (docs/metrics.md, "Expected flips").
struct FlipSummary {
  std::uint64_t measured = 0;  // tokens
  std::uint64_t observed = 0;  // of those, mismatches of any class
  std::optional<double> expected = {};
  std::optional<double> deviation = {};  // of the expected sum
  // P(X >= observed) where noise alone decides.
  std::optional<double> tail = {};
};

struct Place {
  InputName input;
  std::uint64_t token_index = 0;
};

// Over tokens, in nats; empty when none was measured.
struct KlSummary {
  std::uint64_t measured = 0;
  std::optional<double> mean, median, p99, max;
  std::optional<Place> worst;  // of max, when that is above 0
};

struct LogitSummary {
  std::uint64_t compared = 0;
  std::uint64_t bitwise_equal = 0;
  KlSummary kl_bound;                       // lower bounds
  KlSummary kl_estimate;                    // where both sides have a sample
  std::optional<double> kl_standard_error;  // of the estimate's mean, from the samples of tails
  std::uint64_t kl_unreliable = 0;          // estimates that rest on too few ids
  // Root mean squares over tokens: the noise of the best logits, and in units of how far the
  // recorded logits are spread.
  std::uint64_t noise_measured = 0;
  std::optional<double> noise, relative_noise;

  // The estimate where there is one, else the lower bound.
  [[nodiscard]] const KlSummary& kl() const;
  std::optional<double> top1_agreement, top5_agreement, top5_accuracy;
  std::uint64_t top100_measured = 0;  // tokens of which both sides recorded a hundred ids
  std::optional<double> top100_agreement;
  std::uint64_t delta_p_measured = 0;
  std::optional<double> rms_delta_p;  // of the recorded tokens' probability
};

struct KvSummary {
  KvProfile profile;                // pooled
  std::uint64_t recorded_rows = 0;  // positions whose K/V the references hold
  // Positions that were compared, those whose rows a router explains, and the largest relative L2
  // of all other rows, of K and of V (docs/metrics.md, "Mixtures of experts").
  std::uint64_t compared_rows = 0;
  std::uint64_t rerouted_rows = 0;
  std::array<std::optional<double>, 2> unrouted_row_max;
  // Of single inputs, before pooling: the first input (in order) whose error
  // leaves the profile of the others.
  std::optional<Departure> departure;
  InputName departure_input;
  std::uint64_t departure_first_position = 0;  // sequence position of the profile's position 0
};

// One stretch of the comparison: the prefill (token 0, prompt K/V) or the steps.
struct StretchSummary {
  TokenSummary tokens;
  FlipSummary flips;
  FlipSummary hard_flips;  // those with a gap that noise does not explain
  LogitSummary logits;
  KvSummary kv;
};

struct FirstDivergence {
  InputName input;
  std::uint64_t compared = 0;            // tokens with the prefill's
  std::optional<TokenComparison> token;  // nothing: all match
};

struct HardFlip {
  InputName input;
  TokenComparison token;
};

struct ModeSummary {
  format::ReplayMode mode = format::ReplayMode::kInject;
  StretchSummary steps;
  std::vector<FirstDivergence> first_divergences;  // one per input, token 0 included
  std::vector<HardFlip> hard_flips;                // token 0 included; at most kMaxListedFlips
  // Tokens before the first divergence, over inputs: least and lower median.
  std::optional<double> agreed_tokens_min, agreed_tokens_median;
  // Recorded tokens that come before a row's first divergence / recorded tokens.
  std::optional<double> agreed_fraction;
};
inline constexpr std::size_t kMaxListedFlips = 1000;

struct RunSummary {
  StretchSummary prefill;  // of the first mode that an input ran in
  std::vector<ModeSummary> modes;
  // Median KL forced / median KL inject, of the estimates where both have them; empty unless both
  // ran and the inject median is above 0.
  std::optional<double> amplification;

  [[nodiscard]] const ModeSummary* mode(format::ReplayMode mode) const;
};

class RunSummaryBuilder {
 public:
  // As GateContext's: empty for a model without experts.
  explicit RunSummaryBuilder(std::vector<bool> routed_layers = {})
      : routed_layers_(std::move(routed_layers)) {}

  // with_prefill: the input's first mode, whose prefill stands for all.
  void add(const InputName& input, std::uint64_t prompt_length, format::ReplayMode mode,
           const RowComparison& comparison, bool with_prefill);
  // Quantiles are computed here.
  [[nodiscard]] RunSummary build() const;

 private:
  struct Stretch {
    StretchSummary summary;
    std::vector<double> kl_bounds;
    std::vector<double> kl_estimates;
    double squared_kl_errors = 0.0;
    double squared_noise = 0.0;
    double squared_relative_noise = 0.0;
    std::vector<double> flip_probabilities;
    std::vector<double> hard_flip_probabilities;
    double top1 = 0.0;
    double top5 = 0.0;
    double top100 = 0.0;
    double in_top5 = 0.0;
    double squared_delta_p = 0.0;
    void add_verdict(const TokenComparison& token);
    void add_agreement(const TokenComparison& token);
    void add_kl(const InputName& input, const TokenComparison& token);
    void add_noise(const TokenComparison& token);
    void add_tokens(const InputName& input, std::span<const TokenComparison> tokens,
                    std::uint64_t uncompared);
    void add_profile(const InputName& input, const KvProfile& profile, std::uint64_t recorded_rows,
                     std::uint64_t first_position);
    void add_rows(const KvProfile& profile, const std::vector<bool>& routed_layers);
    [[nodiscard]] StretchSummary finished() const;
  };
  struct Mode {
    ModeSummary summary;
    Stretch steps;
    void add_divergences(const InputName& input, std::span<const TokenComparison> tokens);
    [[nodiscard]] ModeSummary finished() const;
  };
  Mode& mode(format::ReplayMode mode);

  std::vector<bool> routed_layers_;
  Stretch prefill_;
  std::vector<Mode> modes_;
};

// Name -> value, e.g. "inject.kl.p99". What was not measured is not there;
// infinite values are. docs/metrics.md lists all names.
using Figures = std::map<std::string, double>;
[[nodiscard]] Figures figures_of(const RunSummary& run);

// Every name that figures_of() can give, sorted.
[[nodiscard]] const std::vector<std::string>& known_figures();

}  // namespace kvtool::analysis
