#include "mode_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string_view>

#include "kvtool/base/text.h"
#include "mismatches.h"
#include "wording.h"

namespace kvtool::report {
namespace {

constexpr const char* kNothing = "-";

std::string show_count(double value) { return fmt::format("{:.0f}", value); }
std::string show_plain(double value) { return fmt::format("{:g}", value); }
std::string show_share(double value) { return percentage(value); }
std::string show_error(double value) {
  return value == 0.0 ? std::string("0") : fmt::format("{:.1e}", value);
}
std::string show_ratio(double value) { return fmt::format("{:.3g}", value); }

struct FigureRow {
  const char* label;
  const char* figure;  // without its stretch
  std::string (*show)(double);
  bool hide_zero = false;  // not worth a row when it is 0 everywhere
};

constexpr std::array kTokenRows = {
    FigureRow{"Tokens compared", "tokens.compared", show_count},
    FigureRow{"  after divergence", "tokens.uncompared", show_count, true},
    FigureRow{"  matching", "tokens.matches", show_count},
    FigureRow{"  match rate", "tokens.match_rate", show_share},
    FigureRow{"  lower bound (95 %)", "tokens.match_rate_lower95", show_share},
    FigureRow{"  ties", "tokens.ties", show_count},
    FigureRow{"  noise flips", "tokens.noise_flips", show_count},
    FigureRow{"  near-ties", "tokens.near_ties", show_count},
    FigureRow{"  hard flips", "tokens.hard_flips", show_count},
    FigureRow{"  NaN or Inf", "tokens.nonfinite", show_count, true},
};

constexpr std::array kAgreementRows = {
    FigureRow{"Agreed tokens, min", "tokens.agreed_min", show_plain},
    FigureRow{"Agreed tokens, median", "tokens.agreed_median", show_plain},
    FigureRow{"Agreed tokens, share", "tokens.agreed_fraction", show_share},
    FigureRow{"Logits bitwise equal", "logits.bitwise_rate", show_share},
    FigureRow{"Top-1 agreement", "logits.top1_agreement", show_share},
    FigureRow{"Top-5 agreement", "logits.top5_agreement", show_share},
    FigureRow{"Top-100 agreement", "logits.top100_agreement", show_share},
    FigureRow{"Top-5 accuracy", "logits.top5_accuracy", show_share},
    FigureRow{"RMS delta p", "logits.rms_delta_p", show_error},
    FigureRow{"Noise of logits", "logits.noise", show_error},
    FigureRow{"  relative", "logits.relative_noise", show_error},
};

// Behind "kl." or "kl_estimate.", labels behind its name.
constexpr std::array kKlRows = {
    FigureRow{" mean", "mean", show_error},
    FigureRow{" mean, std. error", "standard_error", show_error},
    FigureRow{" median", "median", show_error},
    FigureRow{" p99", "p99", show_error},
    FigureRow{" max", "max", show_error},
    FigureRow{", few ids in tail", "unreliable_rate", show_share, true},
};

// Of rows that no router explains: worth a row where there are others.
constexpr std::string_view kUnroutedRow = "unrouted_row_max.relative_l2";

// Shown for K and for V, one below the other.
constexpr std::array kKvRows = {
    FigureRow{"relative L2", "relative_l2", show_error},
    FigureRow{"worst row", "row_max.relative_l2", show_error},
    FigureRow{"worst row, unrouted", kUnroutedRow.data(), show_error},
    FigureRow{"scale error", "scale_error", show_error},
    FigureRow{"x rounding floor", "floor_ratio", show_ratio},
    FigureRow{"p99 ulp", "ulp_p99", show_plain},
    FigureRow{"cosine", "cosine", correlation},
    FigureRow{"Pearson", "pearson", correlation},
    FigureRow{"Pearson worst layer", "layer_min.pearson", correlation},
    FigureRow{"NaN or Inf", "nonfinite", show_count, true},
};

struct Column {
  std::string name;
  const analysis::StretchSummary* stretch = nullptr;
};

std::vector<Column> columns_of(const run::Verdict& verdict) {
  std::vector<Column> columns = {{"prefill", &verdict.run.prefill}};
  for (const analysis::ModeSummary& mode : verdict.run.modes) {
    columns.push_back({std::string(format::replay_mode_name(mode.mode)), &mode.steps});
  }
  return columns;
}

class TableBuilder {
 public:
  explicit TableBuilder(const run::Verdict& verdict)
      : verdict_(verdict), columns_(columns_of(verdict)) {
    for (const Column& column : columns_) table_.columns.push_back(column.name);
  }

  ModeTable build() {
    for (const FigureRow& row : kTokenRows) add(row);
    add_flips();
    for (const FigureRow& row : kAgreementRows) add(row);
    const bool estimated = estimates_kl(verdict_.run);
    for (const FigureRow& row : kKlRows) {
      add(row, kl_name(estimated) + row.label,
          (estimated ? "kl_estimate." : "kl.") + std::string(row.figure));
    }
    add({"Rerouted positions", "kv.rerouted_rate", show_share, true});
    for (const FigureRow& row : kKvRows) {
      if (row.figure == kUnroutedRow && !reroutes(verdict_.run)) continue;
      for (const analysis::KvKind kind : analysis::kKvKinds) {
        add(row, fmt::format("{} {}", kv_letter(kind), row.label),
            fmt::format("kv.{}.{}", analysis::kv_kind_name(kind), row.figure));
        // The worst layer belongs below what it is the worst of.
        if (std::string_view(row.figure) == "relative_l2" && kind == analysis::KvKind::kValue) {
          add_worst_layers();
        }
      }
    }
    return std::move(table_);
  }

 private:
  void add(const FigureRow& row) { add(row, row.label, row.figure); }

  void add(const FigureRow& row, const std::string& label, const std::string& figure) {
    std::vector<std::string> cells;
    bool all_zero = true;
    for (const Column& column : columns_) {
      const auto found = verdict_.figures.find(column.name + "." + figure);
      const bool measured = found != verdict_.figures.end();
      cells.push_back(measured ? row.show(found->second) : kNothing);
      all_zero = all_zero && (!measured || found->second == 0.0);
    }
    const bool hide_zero = row.hide_zero || is_foreign_class(figure, verdict_);
    if (!hide_zero || !all_zero) add_cells(label, std::move(cells));
  }

  using Flips = analysis::FlipSummary analysis::StretchSummary::*;

  // Observed beside expected, of all flips and, where there are any, of hard ones.
  void add_flips() {
    add_flips("Flips observed", &analysis::StretchSummary::flips);
    const bool hard = std::any_of(columns_.begin(), columns_.end(), [](const Column& column) {
      return has_hard_flips(column.stretch->hard_flips);
    });
    if (hard) add_flips("Hard flips observed", &analysis::StretchSummary::hard_flips);
  }

  void add_flips(const std::string& label, Flips flips) {
    std::vector<std::string> observed, tokens, expected, tail;
    bool all_tokens = true;
    for (const Column& column : columns_) {
      const analysis::FlipSummary& counts = column.stretch->*flips;
      const bool measured = counts.tail.has_value();
      observed.push_back(measured ? fmt::format("{}", counts.observed) : kNothing);
      tokens.push_back(measured ? fmt::format("{}", counts.measured) : kNothing);
      expected.push_back(expected_text(counts));
      tail.push_back(measured ? probability_text(*counts.tail) : kNothing);
      all_tokens &= counts.measured == column.stretch->tokens.compared;
    }
    add_cells(label, std::move(observed));
    if (!all_tokens) add_cells("  of tokens with noise", std::move(tokens));
    add_cells("  expected by noise", std::move(expected));
    add_cells("  p, noise makes as many", std::move(tail));
  }

  void add_cells(const std::string& label, std::vector<std::string> cells) {
    const bool measured = std::any_of(cells.begin(), cells.end(),
                                      [](const std::string& cell) { return cell != kNothing; });
    if (measured) table_.rows.push_back({label, std::move(cells)});
  }

  void add_worst_layers() {
    for (const analysis::KvKind kind : analysis::kKvKinds) {
      std::vector<std::string> cells;
      for (const Column& column : columns_) {
        cells.push_back(worst_layer(column.stretch->kv.profile, kind));
      }
      add_cells(fmt::format("{} worst layer", kv_letter(kind)), std::move(cells));
    }
  }

  // "L12 9.0e-01"; nothing when no layer differs.
  static std::string worst_layer(const analysis::KvProfile& profile, analysis::KvKind kind) {
    double worst = 0.0;
    std::size_t worst_layer = 0;
    for (std::size_t layer = 0; profile.measured() && layer < profile.num_layers(); ++layer) {
      const double error = profile.layer(kind, layer).relative_l2();
      if (error > worst) {
        worst = error;
        worst_layer = layer;
      }
    }
    return worst > 0.0 ? fmt::format("L{} {:.1e}", worst_layer, worst) : std::string(kNothing);
  }

  const run::Verdict& verdict_;
  std::vector<Column> columns_;
  ModeTable table_;
};

}  // namespace

ModeTable mode_table(const run::Verdict& verdict) { return TableBuilder(verdict).build(); }

}  // namespace kvtool::report
