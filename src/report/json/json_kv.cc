// K/V error in the JSON report.

#include <array>

#include "json/json_values.h"

namespace kvtool::report {
namespace {

using analysis::KvError;
using analysis::KvKind;
using analysis::KvProfile;

template <std::uint64_t KvError::* member>
Json count_of(const KvError& error) {
  return error.*member;
}
template <double (KvError::*figure)() const>
Json figure_of(const KvError& error) {
  return json_number((error.*figure)());
}

struct NamedFigure {
  const char* name;
  Json (*of)(const KvError& error);
};

constexpr std::array kFigures = {
    NamedFigure{"elements", count_of<&KvError::elements>},
    NamedFigure{"differing", count_of<&KvError::differing>},
    NamedFigure{"nonfinite", count_of<&KvError::nonfinite>},
    NamedFigure{"relative_l2", figure_of<&KvError::relative_l2>},
    NamedFigure{"relative_max", figure_of<&KvError::relative_max>},
    NamedFigure{"max_abs", [](const KvError& error) { return json_number(error.max_abs); }},
    NamedFigure{"cosine", figure_of<&KvError::cosine>},
    NamedFigure{"pearson", figure_of<&KvError::pearson>},
    NamedFigure{"scale_error", figure_of<&KvError::scale_error>},
    NamedFigure{"ulp_p99", figure_of<&KvError::ulp_p99>},
    NamedFigure{"floor_ratio", figure_of<&KvError::floor_ratio>},
};

Json error_object(const KvError& error) {
  Json object = {{"bitwise_equal", error.bitwise_equal()}};
  for (const NamedFigure& figure : kFigures) object[figure.name] = figure.of(error);
  return object;
}

Json departure_object(const std::optional<analysis::Departure>& departure,
                      std::uint64_t first_position) {
  if (!departure) return nullptr;
  return {{"kind", analysis::kv_kind_name(departure->kind)},
          {"layer", departure->layer},
          {"whole_layer", departure->whole_layer},
          {"position", first_position + departure->position},
          {"figure", departure->figure},
          {"measured", json_number(departure->measured)},
          {"typical", json_number(departure->typical)}};
}

Json worst_row(const KvProfile& profile, KvKind kind, std::uint64_t first_position) {
  Json worst = nullptr;
  double largest = 0.0;
  for (std::size_t layer = 0; layer < profile.num_layers(); ++layer) {
    for (std::uint64_t position = 0; position < profile.num_positions(); ++position) {
      const double error = static_cast<double>(profile.row_error(kind, layer, position));
      if (!(error > largest)) continue;
      largest = error;
      worst = {{"layer", layer},
               {"position", first_position + position},
               {"relative_l2", json_number(error)}};
    }
  }
  return worst;
}

// One value for each block of positions; null where nothing was measured.
template <typename ErrorOfBlock>
Json block_values(const KvProfile& profile, ErrorOfBlock error_of,
                  double (KvError::*figure)() const) {
  Json values = Json::array();
  for (std::size_t block = 0; block < profile.num_blocks(); ++block) {
    const KvError& error = error_of(block);
    values.push_back(error.elements == 0 ? Json(nullptr) : json_rounded((error.*figure)()));
  }
  return values;
}

Json layer_blocks(const KvProfile& profile, KvKind kind) {
  Json layers = Json::array();
  for (std::size_t layer = 0; layer < profile.num_layers(); ++layer) {
    layers.push_back(block_values(
        profile, [&](std::size_t block) { return profile.block(kind, layer, block); },
        &KvError::relative_l2));
  }
  return layers;
}

// [layer][head][block]
Json cells(const KvProfile& profile, KvKind kind, double (KvError::*figure)() const) {
  Json layers = Json::array();
  for (std::size_t layer = 0; layer < profile.num_layers(); ++layer) {
    Json heads = Json::array();
    for (std::uint32_t head = 0; head < profile.num_heads(layer); ++head) {
      heads.push_back(block_values(
          profile,
          [&](std::size_t block) -> const KvError& {
            return profile.cell(kind, layer, head, block);
          },
          figure));
    }
    layers.push_back(std::move(heads));
  }
  return layers;
}

// Every figure as an array [layer].
Json layer_figures(const KvProfile& profile, KvKind kind) {
  Json object = Json::object();
  for (std::size_t layer = 0; layer < profile.num_layers(); ++layer) {
    const KvError error = profile.layer(kind, layer);
    for (const NamedFigure& figure : kFigures) object[figure.name].push_back(figure.of(error));
  }
  return object;
}

// Every figure as an array [layer][head].
Json head_figures(const KvProfile& profile, KvKind kind) {
  Json object = Json::object();
  for (const NamedFigure& figure : kFigures) {
    object[figure.name] = Json(profile.num_layers(), Json::array());
  }
  for (std::size_t layer = 0; layer < profile.num_layers(); ++layer) {
    for (std::uint32_t head = 0; head < profile.num_heads(layer); ++head) {
      const KvError error = profile.head(kind, layer, head);
      for (const NamedFigure& figure : kFigures) {
        object[figure.name][layer].push_back(figure.of(error));
      }
    }
  }
  return object;
}

Json kind_object(const KvProfile& profile, KvKind kind, const KvDetail& detail) {
  Json object = error_object(profile.total(kind));
  object["worst_row"] = worst_row(profile, kind, detail.pooled ? 0 : detail.first_position);
  object["layers"] = layer_figures(profile, kind);
  object["layer_blocks"] = {{"relative_l2", layer_blocks(profile, kind)}};
  if (detail.pooled) {
    object["heads"] = head_figures(profile, kind);
    object["cells"] = {{"relative_l2", cells(profile, kind, &KvError::relative_l2)},
                       {"relative_max", cells(profile, kind, &KvError::relative_max)},
                       {"cosine", cells(profile, kind, &KvError::cosine)},
                       {"ulp_p99", cells(profile, kind, &KvError::ulp_p99)},
                       {"floor_ratio", cells(profile, kind, &KvError::floor_ratio)}};
  }
  return object;
}

}  // namespace

Json json_kv(const KvProfile& profile, const KvDetail& detail) {
  if (!profile.measured()) return nullptr;
  Json object = {{"first_position", detail.pooled ? Json(nullptr) : Json(detail.first_position)},
                 {"positions", profile.num_positions()},
                 {"block_positions", profile.block_positions()},
                 {"bitwise_equal", profile.total().bitwise_equal()},
                 {"departure", departure_object(detail.departure, detail.first_position)}};
  for (const KvKind kind : analysis::kKvKinds) {
    object[std::string(analysis::kv_kind_name(kind))] = kind_object(profile, kind, detail);
  }
  return object;
}

}  // namespace kvtool::report
