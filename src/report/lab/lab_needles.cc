// Facts that caches find again in a text, in words and as JSON.
#include <fmt/format.h>

#include "kvtool/base/text.h"
#include "lab/lab_tables.h"
#include "wording.h"

namespace kvtool::report {
namespace {

using run::LabNeedles;
using run::NeedleDepth;
using run::NeedleRow;

std::string recall_cell(const NeedleRow& row) {
  if (!row.recall) return "-";
  return fmt::format("{:.1f}% ({:.1f}-{:.1f})", 100.0 * *row.recall,
                     100.0 * row.recall_low.value_or(0.0), 100.0 * row.recall_high.value_or(0.0));
}

std::string of_full_cell(const NeedleRow& row) {
  return row.recall ? fmt::format("{}/{}", row.kept, row.full_recalls) : "-";
}

std::string log_probability_cell(const NeedleRow& row) {
  return row.log_probability ? fmt::format("{:.2f}", *row.log_probability) : "-";
}

Json json_needle_row(const NeedleRow& row) {
  Json json = json_reading(row);
  json["asked"] = row.asked;
  json["recalled"] = row.recalled;
  json["recall"] = json_number(row.recall);
  json["recall_low95"] = json_number(row.recall_low);
  json["recall_high95"] = json_number(row.recall_high);
  json["full_recalls"] = row.full_recalls;
  json["recalled_of_full"] = row.kept;
  json["answer_log_probability"] = json_number(row.log_probability);
  Json depths = Json::array();
  for (const NeedleDepth& depth : row.depths) {
    depths.push_back(
        {{"depth", depth.depth}, {"asked", depth.asked}, {"recalled", depth.recalled}});
  }
  json["depths"] = std::move(depths);
  return json;
}

}  // namespace

LabTable needle_table(const LabNeedles& needles) {
  LabTable table{.title = fmt::format("Needles in {} tokens", needles.context),
                 .head = {"row", "recall", "of full's", "log p", ""},
                 .rows = {},
                 .lines = {}};
  for (const NeedleRow& row : needles.rows) {
    table.rows.push_back({one_line(row.name), recall_cell(row), of_full_cell(row),
                          log_probability_cell(row), reading_note(row)});
  }
  table.lines = {fmt::format(
      "{} of {} needles such as \"{}\" between {}; the questions behind the text are read token by "
      "token through the cache. Recalled: each token of the answer is the best one. Recall with "
      "its 95 % interval, those recalled of what full recalls, and the mean log probability of an "
      "answer.",
      counted(needles.texts, "text"), run::kNeedles, one_line(needles.example),
      one_line(needles.text))};
  return table;
}

LabTable needle_grid(const LabNeedles& needles) {
  LabTable table{.title = fmt::format("Recalled by depth in {} tokens", needles.context),
                 .head = {"row"},
                 .rows = {},
                 .lines = {fmt::format("Of {} asked at each depth.", needles.texts)}};
  for (const NeedleRow& row : needles.rows) {
    if (row.depths.empty()) continue;
    std::vector<std::string> cells = {one_line(row.name)};
    for (const NeedleDepth& depth : row.depths) {
      if (table.rows.empty()) table.head.push_back(fmt::format("{:g}%", 100.0 * depth.depth));
      cells.push_back(std::to_string(depth.recalled));
    }
    table.rows.push_back(std::move(cells));
  }
  return table;
}

Json json_needles(const std::vector<LabNeedles>& all) {
  Json list = Json::array();
  for (const LabNeedles& needles : all) {
    Json rows = Json::array();
    for (const NeedleRow& row : needles.rows) rows.push_back(json_needle_row(row));
    list.push_back({{"text", json_text(needles.text)},
                    {"context", needles.context},
                    {"texts", needles.texts},
                    {"example", json_text(needles.example)},
                    {"rows", std::move(rows)}});
  }
  return list;
}

}  // namespace kvtool::report
