#include "html/modes_table.h"

#include <fmt/format.h>

#include <array>
#include <functional>
#include <string_view>
#include <vector>

#include "html/escape.h"
#include "html/figures.h"

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

constexpr std::array kFigureRows = {
    FigureRow{"Tokens compared", "tokens.compared"},
    FigureRow{"Not compared (context parted)", "tokens.uncompared"},
    FigureRow{"Match rate", "tokens.match_rate"},
    FigureRow{"Match rate, 95 % lower bound", "tokens.match_rate_lower95"},
    FigureRow{"Match or tie, 95 % lower bound", "tokens.explained_rate_lower95"},
    FigureRow{"Ties", "tokens.ties"},
    FigureRow{"Near-ties", "tokens.near_ties"},
    FigureRow{"Hard flips", "tokens.hard_flips"},
    FigureRow{"NaN or Inf", "tokens.nonfinite"},
    FigureRow{"Agreed tokens, median of inputs", "tokens.agreed_median"},
    FigureRow{"Agreed tokens, least", "tokens.agreed_min"},
    FigureRow{"Logits bitwise equal", "logits.bitwise_rate"},
    FigureRow{"Top-1 agreement", "logits.top1_agreement"},
    FigureRow{"Top-5 agreement", "logits.top5_agreement"},
    FigureRow{"Top-100 agreement", "logits.top100_agreement"},
    FigureRow{"Top-5 accuracy", "logits.top5_accuracy"},
    FigureRow{"RMS Δp of the recorded token", "logits.rms_delta_p"},
    FigureRow{"KL ≥, median (nats)", "kl.median"},
    FigureRow{"KL ≥, p99 (nats)", "kl.p99"},
    FigureRow{"KL ≥, largest (nats)", "kl.max"},
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

}  // namespace

std::string modes_table(const run::Verdict& verdict) {
  const std::vector<Column> columns = columns_of(verdict.run);
  std::string table = "<div class=\"scroll\"><table class=\"modes\"><thead><tr><th>Figure</th>";
  for (const Column& column : columns) table += "<th class=\"number\">" + column.name + "</th>";
  table += "</tr></thead><tbody>\n";

  const auto add = [&](std::string_view title,
                       const std::function<std::string(const Column&)>& of) {
    std::vector<std::string> cells;
    for (const Column& column : columns) cells.push_back(of(column));
    table += row(title, cells);
  };
  add("Gate", [&](const Column& column) { return result_text(verdict, column.name); });
  for (const FigureRow& line : kFigureRows) {
    bool measured = false;
    std::vector<std::string> cells;
    for (const Column& column : columns) {
      const std::string name = fmt::format("{}.{}", column.name, line.figure);
      const auto value = figure(verdict.figures, name);
      measured = measured || value.has_value();
      cells.push_back(shown_figure(name, value));
    }
    if (measured) table += row(line.title, cells);
  }
  add("Error begins at", [](const Column& column) { return departure_text(column.stretch->kv); });
  return table + "</tbody></table></div>\n";
}

}  // namespace kvtool::report::html
