// From which context on a policy saves time, in words and as JSON.
#include <fmt/format.h>

#include <cmath>

#include "kvtool/base/text.h"
#include "lab/lab_tables.h"
#include "wording.h"

namespace kvtool::report {
namespace {

using run::LabBreakeven;
using Verdict = LabBreakeven::Verdict;

std::string signed_ms(double value, double half) {
  return fmt::format("{:+.2f} ± {:.2f}", value, half);
}

std::string_view verdict_name(Verdict verdict) {
  switch (verdict) {
    case Verdict::kPaysAlways: return "pays";
    case Verdict::kPaysFrom: return "pays_from";
    case Verdict::kPaysUpTo: return "pays_up_to";
    case Verdict::kPaysNever: return "does_not_pay";
    case Verdict::kCannotTell: return "cannot_tell";
  }
  return "cannot_tell";
}

// Where the line leads beyond what was measured, if its slope is known well enough.
std::string beyond(const LabBreakeven& one) {
  const bool falls = one.slope < 0.0 && std::abs(one.slope) > one.slope_half;
  if (!falls || !one.crossing || *one.crossing <= static_cast<double>(one.longest)) return {};
  return fmt::format(", by the line from about {:.0f} on, which nobody measured", *one.crossing);
}

std::string words(const LabBreakeven& one) {
  if (!one.missing.empty()) return one.missing;
  switch (one.verdict()) {
    case Verdict::kPaysAlways: return "pays at all lengths measured";
    case Verdict::kPaysFrom:
      return fmt::format("pays from about {:.0f} positions on", one.crossing.value_or(0.0));
    case Verdict::kPaysUpTo:
      return fmt::format("pays up to about {:.0f} positions", one.crossing.value_or(0.0));
    case Verdict::kPaysNever: return "does not pay at the lengths measured" + beyond(one);
    case Verdict::kCannotTell: return "as fast as full within the spread" + beyond(one);
  }
  return {};
}

}  // namespace

LabTable breakeven_table(const std::vector<LabBreakeven>& breakeven) {
  LabTable table{.title = "From which length a policy saves time",
                 .head = {"policy", "positions", "ms at the shortest", "at the longest",
                          "ms per 1000 more", "it"},
                 .rows = {},
                 .lines = {}};
  for (const LabBreakeven& one : breakeven) {
    std::vector<std::string> cells = {one_line(one.name)};
    cells.push_back(fmt::format("{}-{}", one.shortest, one.longest));
    if (one.missing.empty()) {
      cells.push_back(signed_ms(one.at_shortest, one.at_shortest_half));
      cells.push_back(signed_ms(one.at_longest, one.at_longest_half));
      cells.push_back(signed_ms(1e3 * one.slope, 1e3 * one.slope_half));
    } else {
      cells.insert(cells.end(), 3, "-");
    }
    cells.push_back(words(one));
    table.rows.push_back(std::move(cells));
  }
  table.lines = {
      "Milliseconds of a step more (+) or less (-) than the same step of full: a line by least "
      "squares through medians of 16 steps, and its 95 % interval. Whether it is worth that, the "
      "quality of the same row says."};
  return table;
}

Json json_breakeven(const std::vector<LabBreakeven>& breakeven) {
  Json list = Json::array();
  for (const LabBreakeven& one : breakeven) {
    Json json = {{"name", json_text(one.name)},
                 {"shortest_positions", one.shortest},
                 {"longest_positions", one.longest},
                 {"missing", json_known(one.missing)}};
    if (one.missing.empty()) {
      json["verdict"] = verdict_name(one.verdict());
      json["crossing_positions"] = json_number(one.crossing);
      json["ms_at_shortest"] = json_number(one.at_shortest);
      json["ms_at_shortest_half95"] = json_number(one.at_shortest_half);
      json["ms_at_longest"] = json_number(one.at_longest);
      json["ms_at_longest_half95"] = json_number(one.at_longest_half);
      json["ms_per_position"] = json_number(one.slope);
      json["ms_per_position_half95"] = json_number(one.slope_half);
    }
    list.push_back(std::move(json));
  }
  return list;
}

}  // namespace kvtool::report
