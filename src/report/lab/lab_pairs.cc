// Which choice is best at equal budget, in words and as JSON.
#include <fmt/format.h>

#include <cmath>

#include "kvtool/base/text.h"
#include "lab/lab_tables.h"
#include "wording.h"

namespace kvtool::report {
namespace {

using run::LabPair;

std::string nats(double value) { return value == 0.0 ? "0" : fmt::format("{:.1e}", value); }

std::string read_of(const std::optional<double>& bytes) {
  return bytes ? megabytes(static_cast<std::uint64_t>(std::llround(*bytes))) : "-";
}

std::string words(const LabPair& pair) {
  if (!pair.is_certain()) return pair.difference > 0.0 ? "no worse for sure" : "no better for sure";
  return pair.difference > 0.0 ? "worse" : "better";
}

}  // namespace

LabTable pairs_table(const std::vector<LabPair>& pairs) {
  LabTable table{.title = "Who chooses best at equal budget",
                 .head = {"best", "reads", "against", "reads", "KL more", "it is"},
                 .rows = {},
                 .lines = {}};
  for (const LabPair& pair : pairs) {
    std::string more = nats(pair.difference);
    if (pair.half95) more += " ± " + nats(*pair.half95);
    table.rows.push_back({one_line(pair.best), read_of(pair.best_read), one_line(pair.other),
                          read_of(pair.other_read), std::move(more), words(pair)});
  }
  table.lines = {
      "The same steps under both, KL in nats: mean of the differences and its 95 % interval over "
      "means of 16 steps each. mass, which no real system knows, and random stand in the table "
      "above."};
  return table;
}

Json json_pairs(const std::vector<LabPair>& pairs) {
  Json list = Json::array();
  for (const LabPair& pair : pairs) {
    list.push_back({{"budget", json_text(pair.budget)},
                    {"best", json_text(pair.best)},
                    {"other", json_text(pair.other)},
                    {"steps", pair.steps},
                    {"best_kl_mean", json_number(pair.best_kl)},
                    {"kl_difference", json_number(pair.difference)},
                    {"kl_difference_half95", json_number(pair.half95)},
                    {"certain", pair.is_certain()},
                    {"best_read_bytes_per_step", json_number(pair.best_read)},
                    {"other_read_bytes_per_step", json_number(pair.other_read)}});
  }
  return list;
}

}  // namespace kvtool::report
