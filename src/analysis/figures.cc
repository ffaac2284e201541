// The flat list of figures. Every figure is one line of a table, so that the
// names that a run gives and the names that are known cannot part.
#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>

#include "kvtool/analysis/statistics.h"
#include "kvtool/analysis/summary.h"

namespace kvtool::analysis {
namespace {

using Number = std::optional<double>;

template <typename Source>
struct Figure {
  std::string_view name;
  Number (*value)(const Source&);
};

Number exact(std::uint64_t count) { return static_cast<double>(count); }

// --- One stretch ----------------------------------------------------------------

constexpr std::array kTokenFigures = {
    Figure<TokenSummary>{"compared", [](const TokenSummary& t) { return exact(t.compared); }},
    Figure<TokenSummary>{"uncompared", [](const TokenSummary& t) { return exact(t.uncompared); }},
    Figure<TokenSummary>{"matches", [](const TokenSummary& t) { return exact(t.matches); }},
    Figure<TokenSummary>{"ties", [](const TokenSummary& t) { return exact(t.ties); }},
    Figure<TokenSummary>{"noise_flips", [](const TokenSummary& t) { return exact(t.noise_flips); }},
    Figure<TokenSummary>{"near_ties", [](const TokenSummary& t) { return exact(t.near_ties); }},
    Figure<TokenSummary>{"hard_flips", [](const TokenSummary& t) { return exact(t.hard_flips); }},
    Figure<TokenSummary>{"nonfinite", [](const TokenSummary& t) { return exact(t.nonfinite); }},
    Figure<TokenSummary>{"match_rate", [](const TokenSummary& t) { return t.match_rate(); }},
    Figure<TokenSummary>{"match_rate_lower95",
                         [](const TokenSummary& t) { return t.match_rate_lower95(); }},
    Figure<TokenSummary>{"tie_rate", [](const TokenSummary& t) { return t.tie_rate(); }},
    Figure<TokenSummary>{"explained_rate_lower95",
                         [](const TokenSummary& t) { return t.explained_rate_lower95(); }},
};

Number bitwise_rate(const LogitSummary& logits) {
  if (logits.compared == 0) return std::nullopt;
  return static_cast<double>(logits.bitwise_equal) / static_cast<double>(logits.compared);
}

Number unreliable_rate(const LogitSummary& logits) {
  if (logits.kl_estimate.measured == 0) return std::nullopt;
  return static_cast<double>(logits.kl_unreliable) /
         static_cast<double>(logits.kl_estimate.measured);
}

// Of both kinds of flips: "flips_", "hard_flips_".
constexpr std::array kFlipFigures = {
    Figure<FlipSummary>{"expected", [](const FlipSummary& f) { return f.expected; }},
    Figure<FlipSummary>{"deviation", [](const FlipSummary& f) { return f.deviation; }},
    Figure<FlipSummary>{"p", [](const FlipSummary& f) { return f.tail; }},
};

constexpr std::array kLogitFigures = {
    Figure<LogitSummary>{"logits.bitwise_rate", bitwise_rate},
    Figure<LogitSummary>{"logits.top1_agreement",
                         [](const LogitSummary& l) { return l.top1_agreement; }},
    Figure<LogitSummary>{"logits.top5_agreement",
                         [](const LogitSummary& l) { return l.top5_agreement; }},
    Figure<LogitSummary>{"logits.top100_agreement",
                         [](const LogitSummary& l) { return l.top100_agreement; }},
    Figure<LogitSummary>{"logits.top5_accuracy",
                         [](const LogitSummary& l) { return l.top5_accuracy; }},
    Figure<LogitSummary>{"logits.rms_delta_p", [](const LogitSummary& l) { return l.rms_delta_p; }},
    Figure<LogitSummary>{"logits.noise", [](const LogitSummary& l) { return l.noise; }},
    Figure<LogitSummary>{"logits.relative_noise",
                         [](const LogitSummary& l) { return l.relative_noise; }},
    Figure<LogitSummary>{"kl.mean", [](const LogitSummary& l) { return l.kl_bound.mean; }},
    Figure<LogitSummary>{"kl.median", [](const LogitSummary& l) { return l.kl_bound.median; }},
    Figure<LogitSummary>{"kl.p99", [](const LogitSummary& l) { return l.kl_bound.p99; }},
    Figure<LogitSummary>{"kl.max", [](const LogitSummary& l) { return l.kl_bound.max; }},
    Figure<LogitSummary>{"kl_estimate.mean",
                         [](const LogitSummary& l) { return l.kl_estimate.mean; }},
    Figure<LogitSummary>{"kl_estimate.median",
                         [](const LogitSummary& l) { return l.kl_estimate.median; }},
    Figure<LogitSummary>{"kl_estimate.p99",
                         [](const LogitSummary& l) { return l.kl_estimate.p99; }},
    Figure<LogitSummary>{"kl_estimate.max",
                         [](const LogitSummary& l) { return l.kl_estimate.max; }},
    Figure<LogitSummary>{"kl_estimate.standard_error",
                         [](const LogitSummary& l) { return l.kl_standard_error; }},
    Figure<LogitSummary>{"kl_estimate.unreliable_rate", unreliable_rate},
};

constexpr std::string_view kRowsRecorded = "kv.recorded_rows";
constexpr std::string_view kRerouted = "kv.rerouted_rate";

Number rerouted_rate(const KvSummary& kv) {
  if (kv.compared_rows == 0) return std::nullopt;
  return static_cast<double>(kv.rerouted_rows) / static_cast<double>(kv.compared_rows);
}

// K or V of one stretch, pooled in the ways that figures need.
struct KvView {
  KvError total;
  std::vector<KvError> layers;
  std::vector<KvError> heads;
  Number largest_row;
  Number unrouted_row;
  std::vector<double> median_rows;  // of each layer

  KvView(const KvSummary& summary, KvKind kind) : KvView(summary.profile, kind) {
    unrouted_row = summary.unrouted_row_max[static_cast<std::size_t>(kind)];
  }

 private:
  KvView(const KvProfile& profile, KvKind kind) : total(profile.total(kind)) {
    for (std::size_t layer = 0; layer < profile.num_layers(); ++layer) {
      layers.push_back(profile.layer(kind, layer));
      for (std::uint32_t head = 0; head < profile.num_heads(layer); ++head) {
        heads.push_back(profile.head(kind, layer, head));
      }
      std::vector<double> rows;
      for (std::uint64_t position = 0; position < profile.num_positions(); ++position) {
        const double row = profile.row_error(kind, layer, position);
        if (std::isnan(row)) continue;
        rows.push_back(row);
        largest_row = std::max(row, largest_row.value_or(0.0));
      }
      if (const Number median = quantile(rows, 0.5)) median_rows.push_back(*median);
    }
  }
};

double scale_of(const KvError& error) { return std::abs(error.scale_error()); }
double l2_of(const KvError& error) { return error.relative_l2(); }
double floors_of(const KvError& error) { return error.floor_ratio(); }
double pearson_of(const KvError& error) { return error.pearson(); }

Number largest(const std::vector<KvError>& errors, double (*figure)(const KvError&)) {
  Number result;
  for (const KvError& error : errors) {
    if (error.elements > 0) result = std::max(figure(error), result.value_or(0.0));
  }
  return result;
}

Number largest(const std::vector<double>& values) {
  if (values.empty()) return std::nullopt;
  return *std::max_element(values.begin(), values.end());
}

Number smallest(const std::vector<KvError>& errors, double (*figure)(const KvError&)) {
  Number result;
  for (const KvError& error : errors) {
    if (error.elements == 0) continue;
    const double value = figure(error);
    result = std::min(value, result.value_or(value));
  }
  return result;
}

constexpr std::array kKvFigures = {
    Figure<KvView>{"relative_l2", [](const KvView& v) { return Number(v.total.relative_l2()); }},
    Figure<KvView>{"relative_max", [](const KvView& v) { return Number(v.total.relative_max()); }},
    Figure<KvView>{"cosine", [](const KvView& v) { return Number(v.total.cosine()); }},
    Figure<KvView>{"pearson", [](const KvView& v) { return Number(pearson_of(v.total)); }},
    Figure<KvView>{"scale_error", [](const KvView& v) { return Number(scale_of(v.total)); }},
    Figure<KvView>{"ulp_p99", [](const KvView& v) { return Number(v.total.ulp_p99()); }},
    Figure<KvView>{"floor_ratio", [](const KvView& v) { return Number(v.total.floor_ratio()); }},
    Figure<KvView>{"differing_rate",
                   [](const KvView& v) {
                     return Number(static_cast<double>(v.total.differing) /
                                   static_cast<double>(v.total.elements));
                   }},
    Figure<KvView>{"nonfinite", [](const KvView& v) { return exact(v.total.nonfinite); }},
    Figure<KvView>{"layer_max.relative_l2",
                   [](const KvView& v) { return largest(v.layers, l2_of); }},
    Figure<KvView>{"layer_max.scale_error",
                   [](const KvView& v) { return largest(v.layers, scale_of); }},
    Figure<KvView>{"layer_max.floor_ratio",
                   [](const KvView& v) { return largest(v.layers, floors_of); }},
    Figure<KvView>{"layer_min.pearson",
                   [](const KvView& v) { return smallest(v.layers, pearson_of); }},
    Figure<KvView>{"head_max.relative_l2", [](const KvView& v) { return largest(v.heads, l2_of); }},
    Figure<KvView>{"head_max.scale_error",
                   [](const KvView& v) { return largest(v.heads, scale_of); }},
    Figure<KvView>{"layer_max.median_row_l2",
                   [](const KvView& v) { return largest(v.median_rows); }},
    Figure<KvView>{"row_max.relative_l2", [](const KvView& v) { return v.largest_row; }},
    Figure<KvView>{"unrouted_row_max.relative_l2", [](const KvView& v) { return v.unrouted_row; }},
};

// --- One mode -------------------------------------------------------------------

constexpr std::array kModeFigures = {
    Figure<ModeSummary>{"tokens.agreed_min",
                        [](const ModeSummary& m) { return m.agreed_tokens_min; }},
    Figure<ModeSummary>{"tokens.agreed_median",
                        [](const ModeSummary& m) { return m.agreed_tokens_median; }},
    Figure<ModeSummary>{"tokens.agreed_fraction",
                        [](const ModeSummary& m) { return m.agreed_fraction; }},
};

constexpr std::string_view kPrefill = "prefill";
constexpr std::string_view kAmplification = "forced.amplification";
constexpr std::array kModes = {format::ReplayMode::kInject, format::ReplayMode::kForced,
                               format::ReplayMode::kFree};

std::string kv_prefix(const std::string& stretch, KvKind kind) {
  return stretch + "kv." + std::string(kv_kind_name(kind)) + ".";
}

template <typename Table, typename Source>
void add_all(const std::string& prefix, const Table& table, const Source& source,
             Figures& figures) {
  for (const auto& figure : table) {
    if (const Number value = figure.value(source)) {
      figures.emplace(prefix + std::string(figure.name), *value);
    }
  }
}

// prefix: "inject."
void add_summary(const std::string& prefix, const StretchSummary& stretch, Figures& figures) {
  if (stretch.tokens.inputs == 0) return;
  add_all(prefix + "tokens.", kTokenFigures, stretch.tokens, figures);
  add_all(prefix + "tokens.flips_", kFlipFigures, stretch.flips, figures);
  add_all(prefix + "tokens.hard_flips_", kFlipFigures, stretch.hard_flips, figures);
  add_all(prefix, kLogitFigures, stretch.logits, figures);
  figures.emplace(prefix + std::string(kRowsRecorded),
                  static_cast<double>(stretch.kv.recorded_rows));
  if (const Number rate = rerouted_rate(stretch.kv)) {
    figures.emplace(prefix + std::string(kRerouted), *rate);
  }
  for (const KvKind kind : kKvKinds) {
    const KvView view(stretch.kv, kind);
    if (view.total.elements > 0) add_all(kv_prefix(prefix, kind), kKvFigures, view, figures);
  }
}

template <typename Table>
void list_all(const std::string& prefix, const Table& table, std::vector<std::string>& names) {
  for (const auto& figure : table) names.push_back(prefix + std::string(figure.name));
}

void list_stretch(const std::string& prefix, std::vector<std::string>& names) {
  list_all(prefix + "tokens.", kTokenFigures, names);
  list_all(prefix + "tokens.flips_", kFlipFigures, names);
  list_all(prefix + "tokens.hard_flips_", kFlipFigures, names);
  list_all(prefix, kLogitFigures, names);
  names.push_back(prefix + std::string(kRowsRecorded));
  names.push_back(prefix + std::string(kRerouted));
  for (const KvKind kind : kKvKinds) list_all(kv_prefix(prefix, kind), kKvFigures, names);
}

std::string mode_prefix(format::ReplayMode mode) {
  return std::string(format::replay_mode_name(mode)) + ".";
}

std::vector<std::string> list_names() {
  std::vector<std::string> names;
  list_stretch(std::string(kPrefill) + ".", names);
  for (const format::ReplayMode mode : kModes) {
    list_stretch(mode_prefix(mode), names);
    list_all(mode_prefix(mode), kModeFigures, names);
  }
  names.emplace_back(kAmplification);
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace

Figures figures_of(const RunSummary& run) {
  Figures figures;
  add_summary(std::string(kPrefill) + ".", run.prefill, figures);
  for (const ModeSummary& mode : run.modes) {
    add_summary(mode_prefix(mode.mode), mode.steps, figures);
    add_all(mode_prefix(mode.mode), kModeFigures, mode, figures);
  }
  if (run.amplification) figures.emplace(kAmplification, *run.amplification);
  return figures;
}

const std::vector<std::string>& known_figures() {
  static const std::vector<std::string> names = list_names();
  return names;
}

}  // namespace kvtool::analysis
