// What policies cost a model, with quality against bytes as a picture.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "html/escape.h"
#include "html/sections.h"
#include "html/speedup_chart.h"
#include "lab/lab_tables.h"
#include "lab/lab_words.h"
#include "wording.h"

namespace kvtool::report::html {
namespace {

constexpr double kMegabyte = 1e6;
constexpr const char* kLabColors[] = {"var(--mode-inject)", "var(--mode-forced)",
                                      "var(--mode-free)", "var(--noise)", "var(--near)"};

std::string lab_rows(const run::LabResult& result) {
  const std::vector<LabColumn> columns = lab_columns(result);
  std::string rows;
  for (const run::LabRow& row : result.rows) {
    rows += "<tr><th scope=\"row\"><code>" + text(row.name) + "</code></th>";
    for (const LabColumn& column : columns) {
      rows += "<td class=\"number\">" + text(lab_cell(column, row)) + "</td>";
    }
    rows += "</tr>\n";
  }
  return rows;
}

std::string lab_html_table(const run::LabResult& result) {
  std::string head = "<th>Row</th>";
  for (const LabColumn& column : lab_columns(result)) {
    head += "<th class=\"number\">" + text(std::string(column.title)) + "</th>";
  }
  return "<div class=\"scroll\"><table><thead><tr>" + head + "</tr></thead><tbody>\n" +
         lab_rows(result) + "</tbody></table></div>\n";
}

std::string lab_items(const std::vector<std::string>& lines) {
  if (lines.empty()) return {};
  std::string items = "<ul class=\"notes\">\n";
  for (const std::string& line : lines) items += "<li>" + text(line) + "</li>\n";
  return items + "</ul>\n";
}

// Nothing above nothing.
std::string titled(const std::string& title, const std::string& content) {
  return content.empty() ? content : "<h3>" + title + "</h3>\n" + content;
}

struct LabPoint {
  double bytes = 0.0;
  double kl = 0.0;
};

// Of each policy the points of its budgets, by what a step reads.
std::map<std::string, std::vector<LabPoint>> lab_points(const run::LabResult& result) {
  std::map<std::string, std::vector<LabPoint>> lines;
  for (const run::LabRow& row : result.rows) {
    if (!row.counts() || !row.bytes.read_bytes_per_step || !row.quality.kl_mean) continue;
    if (row.role == run::LabRole::kFull || *row.bytes.read_bytes_per_step <= 0.0) continue;
    lines[row.given].push_back({*row.bytes.read_bytes_per_step / kMegabyte, *row.quality.kl_mean});
  }
  return lines;
}

std::string quality_picture(const run::LabResult& result) {
  const auto lines = lab_points(result);
  std::vector<double> across;
  for (const auto& [name, points] : lines) {
    for (const LabPoint& point : points) across.push_back(point.bytes);
  }
  std::sort(across.begin(), across.end());
  across.erase(std::unique(across.begin(), across.end()), across.end());
  if (across.empty()) return {};
  std::vector<ChartLine> drawn;
  for (const auto& [name, points] : lines) {
    ChartLine line{name, kLabColors[drawn.size() % std::size(kLabColors)], false, {}};
    line.values.assign(across.size(), std::numeric_limits<double>::quiet_NaN());
    for (const LabPoint& point : points) {
      const auto at = std::lower_bound(across.begin(), across.end(), point.bytes);
      line.values[static_cast<std::size_t>(at - across.begin())] = point.kl;
    }
    drawn.push_back(std::move(line));
  }
  for (const run::LabRow& row : result.rows) {
    if (row.role != run::LabRole::kNoise || !row.ran() || !row.quality.kl_mean) continue;
    drawn.push_back(
        {"noise", "var(--quiet)", true, std::vector<double>(across.size(), *row.quality.kl_mean)});
  }
  return "<figure class=\"chart\">" +
         logarithmic_chart(across, drawn,
                           "Mean KL divergence in nats over the megabytes of K/V that a step reads",
                           "MB of K/V that a step reads") +
         "</figure>\n";
}

std::string table_section(const LabTable& table) {
  std::string html = "<h3>" + text(table.title) + "</h3>\n<div class=\"scroll\"><table><thead><tr>";
  for (std::size_t i = 0; i < table.head.size(); ++i) {
    html += (i == 0 ? "<th>" : "<th class=\"number\">") + text(table.head[i]) + "</th>";
  }
  html += "</tr></thead><tbody>\n";
  for (const std::vector<std::string>& cells : table.rows) {
    html += "<tr><th scope=\"row\">" + text(cells.front()) + "</th>";
    for (std::size_t i = 1; i < cells.size(); ++i) {
      html += "<td class=\"number\">" + text(cells[i]) + "</td>";
    }
    html += "</tr>\n";
  }
  return html + "</tbody></table></div>\n" + lab_items(table.lines);
}

// Mean KL of each layer alone, a line for each number of bits.
std::string layers_picture(const run::LabSensitivity& sensitivity) {
  std::vector<double> layers;
  std::map<std::uint32_t, std::vector<double>, std::greater<>> lines;
  for (const run::LabPart& part : sensitivity.parts) {
    if (!part.layer) continue;
    std::vector<double>& values = lines[part.bits];
    values.push_back(part.quality.kl_mean.value_or(std::numeric_limits<double>::quiet_NaN()));
    if (values.size() > layers.size()) layers.push_back(static_cast<double>(*part.layer));
  }
  if (layers.size() < 2) return {};
  std::vector<ChartLine> drawn;
  for (auto& [bits, values] : lines) {
    drawn.push_back({fmt::format("{} bits", bits), kLabColors[drawn.size() % std::size(kLabColors)],
                     false, std::move(values)});
  }
  if (sensitivity.full.kl_mean) {
    drawn.push_back({"noise", "var(--quiet)", true,
                     std::vector<double>(layers.size(), *sensitivity.full.kl_mean)});
  }
  return "<figure class=\"chart\">" +
         logarithmic_chart(layers, drawn, "Mean KL divergence in nats with one layer in few bits",
                           "layer", Across::kLinear) +
         "</figure>\n";
}

}  // namespace

std::string lab_section(const run::LabResult& result) {
  std::vector<std::string> specs;
  for (const run::LabRow& row : result.rows) specs.push_back(row.name + ": " + lab_row_line(row));
  std::string section = fmt::format(
      "<section class=\"card\">\n<header class=\"verdict\"><div class=\"badge-line\">{}<div>"
      "<h2>K/V cache policies on {}</h2><p class=\"pair\">{}</p></div></div>",
      badge(result.checks_passed() ? Outcome::kDone : Outcome::kFail), text(result.model_id),
      text(result.dtype));
  for (const std::string& line : lab_check_lines(result)) {
    section += "<p class=\"finding\">" + text(line) + "</p>";
  }
  section += "</header>\n" + lab_html_table(result);
  section += titled("Mean KL over what a step reads", quality_picture(result));
  section += titled("What it costs", lab_items(lab_claims(result)));
  for (const LabTable& table : lab_tables(result)) section += table_section(table);
  if (result.sensitivity) section += layers_picture(*result.sensitivity);
  section += "<h3>What ran</h3>\n" + lab_items(specs) + lab_items(lab_setting_lines(result));
  return section + "</section>\n";
}

}  // namespace kvtool::report::html
