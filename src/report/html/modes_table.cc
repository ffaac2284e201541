#include "html/modes_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "html/escape.h"
#include "html/figures.h"
#include "mismatches.h"
#include "wording.h"

namespace kvtool::report::html {
namespace {

struct Column {
  std::string name;
  const analysis::StretchSummary* stretch = nullptr;
};

struct FigureRow {
  std::string_view title;
  std::string_view figure;  // behind "STRETCH."
};

constexpr std::array kTokenRows = {
    FigureRow{"Tokens compared", "tokens.compared"},
    FigureRow{"Not compared (context parted)", "tokens.uncompared"},
    FigureRow{"Match rate", "tokens.match_rate"},
    FigureRow{"Match rate, 95 % lower bound", "tokens.match_rate_lower95"},
    FigureRow{"Match or tie, 95 % lower bound", "tokens.explained_rate_lower95"},
    FigureRow{"Ties", "tokens.ties"},
    FigureRow{"Noise flips", "tokens.noise_flips"},
    FigureRow{"Near-ties", "tokens.near_ties"},
    FigureRow{"Hard flips", "tokens.hard_flips"},
    FigureRow{"NaN or Inf", "tokens.nonfinite"},
    FigureRow{"Agreed tokens, median of inputs", "tokens.agreed_median"},
    FigureRow{"Agreed tokens, least", "tokens.agreed_min"},
};

constexpr std::array kLogitRows = {
    FigureRow{"Logits bitwise equal", "logits.bitwise_rate"},
    FigureRow{"Top-1 agreement", "logits.top1_agreement"},
    FigureRow{"Top-5 agreement", "logits.top5_agreement"},
    FigureRow{"Top-100 agreement", "logits.top100_agreement"},
    FigureRow{"Top-5 accuracy", "logits.top5_accuracy"},
    FigureRow{"RMS Δp of the recorded token", "logits.rms_delta_p"},
    FigureRow{"Noise of the best logits", "logits.noise"},
    FigureRow{"Noise, in spreads of the logits", "logits.relative_noise"},
};

constexpr std::array kKlEstimates = {
    FigureRow{"KL, mean (nats)", "kl_estimate.mean"},
    FigureRow{"KL, standard error of the mean", "kl_estimate.standard_error"},
    FigureRow{"KL, median (nats)", "kl_estimate.median"},
    FigureRow{"KL, p99 (nats)", "kl_estimate.p99"},
    FigureRow{"KL, largest (nats)", "kl_estimate.max"},
    FigureRow{"KL, tokens with few ids in the tail", "kl_estimate.unreliable_rate"},
};

constexpr std::array kKlBounds = {
    FigureRow{"KL (lower bound), mean (nats)", "kl.mean"},
    FigureRow{"KL (lower bound), median (nats)", "kl.median"},
    FigureRow{"KL (lower bound), p99 (nats)", "kl.p99"},
    FigureRow{"KL (lower bound), largest (nats)", "kl.max"},
};

constexpr std::array kReroutedRows = {
    FigureRow{"Positions whose rows a router explains", "kv.rerouted_rate"},
    FigureRow{"K worst of the other rows", "kv.key.unrouted_row_max.relative_l2"},
    FigureRow{"V worst of the other rows", "kv.value.unrouted_row_max.relative_l2"},
};

constexpr std::array kKvRows = {
    FigureRow{"K relative L2", "kv.key.relative_l2"},
    FigureRow{"K in rounding floors", "kv.key.floor_ratio"},
    FigureRow{"K scale error", "kv.key.scale_error"},
    FigureRow{"K Pearson correlation, worst layer", "kv.key.layer_min.pearson"},
    FigureRow{"V relative L2", "kv.value.relative_l2"},
    FigureRow{"V in rounding floors", "kv.value.floor_ratio"},
    FigureRow{"V scale error", "kv.value.scale_error"},
    FigureRow{"V Pearson correlation, worst layer", "kv.value.layer_min.pearson"},
};

std::vector<Column> columns_of(const analysis::RunSummary& run) {
  std::vector<Column> columns = {{"prefill", &run.prefill}};
  for (const analysis::ModeSummary& mode : run.modes) {
    columns.push_back({std::string(format::replay_mode_name(mode.mode)), &mode.steps});
  }
  return columns;
}

std::string row(std::string_view title, const std::vector<std::string>& cells) {
  std::string result = fmt::format("<tr><th scope=\"row\">{}</th>", title);
  for (const std::string& cell : cells) result += "<td class=\"number\">" + cell + "</td>";
  return result + "</tr>\n";
}

std::string departure_text(const analysis::KvSummary& kv) {
  if (!kv.profile.measured()) return "–";
  if (!kv.departure) return "none";
  const analysis::Departure& departure = *kv.departure;
  const std::string place =
      departure.whole_layer
          ? std::string("whole layer")
          : fmt::format("position {}", kv.departure_first_position + departure.position);
  return fmt::format("{} layer {}, {}<br><span class=\"quiet\">{}: {} = {} against {}</span>",
                     departure.kind == analysis::KvKind::kKey ? "K" : "V", departure.layer, place,
                     text(analysis::to_string(kv.departure_input)), text(departure.figure),
                     shown(departure.measured), shown(departure.typical));
}

std::string result_text(const run::Verdict& verdict, const std::string& stretch) {
  return verdict.gate.stretch_passed(stretch) ? "<span class=\"ok\">✓ pass</span>"
                                              : "<span class=\"bad\">✗ FAIL</span>";
}

class TableWriter {
 public:
  explicit TableWriter(const run::Verdict& verdict)
      : verdict_(verdict), columns_(columns_of(verdict.run)) {}

  std::string write() {
    text_ = "<div class=\"scroll\"><table class=\"modes\"><thead><tr><th>Figure</th>";
    for (const Column& column : columns_) {
      text_ += "<th class=\"number\">" + column.name + "</th>";
    }
    text_ += "</tr></thead><tbody>\n";
    add("Gate", [&](const Column& column) { return result_text(verdict_, column.name); });
    add_figures(kTokenRows);
    add_flips("Flips", &analysis::StretchSummary::flips);
    if (std::any_of(columns_.begin(), columns_.end(), [](const Column& column) {
          return has_hard_flips(column.stretch->hard_flips);
        })) {
      add_flips("Hard flips", &analysis::StretchSummary::hard_flips);
    }
    add_figures(kLogitRows);
    if (estimates_kl(verdict_.run)) {
      add_figures(kKlEstimates);
    } else {
      add_figures(kKlBounds);
    }
    if (reroutes(verdict_.run)) add_figures(kReroutedRows);
    add_figures(kKvRows);
    add("Error begins at", [](const Column& column) { return departure_text(column.stretch->kv); });
    return text_ + "</tbody></table></div>\n";
  }

 private:
  void add(std::string_view title, const std::function<std::string(const Column&)>& of) {
    std::vector<std::string> cells;
    for (const Column& column : columns_) cells.push_back(of(column));
    text_ += row(title, cells);
  }

  void add_figures(std::span<const FigureRow> rows) {
    for (const FigureRow& line : rows) add_figure(line);
  }

  // Only what some stretch has measured.
  void add_figure(const FigureRow& line) {
    bool worth_a_row = false;
    std::vector<std::string> cells;
    for (const Column& column : columns_) {
      const std::string name = fmt::format("{}.{}", column.name, line.figure);
      const auto value = figure(verdict_.figures, name);
      worth_a_row |= value && (*value != 0.0 || !is_foreign_class(line.figure, verdict_));
      cells.push_back(shown_figure(name, value));
    }
    if (worth_a_row) text_ += row(line.title, cells);
  }

  void add_flips(const std::string& title,
                 analysis::FlipSummary analysis::StretchSummary::* flips) {
    if (std::none_of(columns_.begin(), columns_.end(), [&](const Column& column) {
          return (column.stretch->*flips).tail.has_value();
        })) {
      return;
    }
    add(title + " observed", [&](const Column& column) {
      const analysis::FlipSummary& counts = column.stretch->*flips;
      if (!counts.tail) return std::string("–");
      const bool all = counts.measured == column.stretch->tokens.compared;
      return fmt::format("{}{}", counts.observed,
                         all ? "" : fmt::format(" of {}", counts.measured));
    });
    add(title + " expected by noise",
        [&](const Column& column) { return text(expected_text(column.stretch->*flips)); });
    add(title + ", p (noise makes as many)", [&](const Column& column) {
      const std::optional<double>& tail = (column.stretch->*flips).tail;
      return tail ? text(probability_text(*tail)) : std::string("–");
    });
  }

  const run::Verdict& verdict_;
  std::vector<Column> columns_;
  std::string text_;
};

}  // namespace

std::string modes_table(const run::Verdict& verdict) {
  std::string table = TableWriter(verdict).write();
  const std::string note = flips_note(verdict);
  return note.empty() ? table : table + "<p class=\"quiet\">" + text(note) + "</p>\n";
}

}  // namespace kvtool::report::html
