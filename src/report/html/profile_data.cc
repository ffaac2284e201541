#include "html/profile_data.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <string>

#include "html/packed_floats.h"

namespace kvtool::report::html {
namespace {

using Json = nlohmann::json;
using analysis::KvError;
using analysis::KvKind;
using analysis::KvProfile;

constexpr std::uint64_t kBytesPerCell = 6 * 3 + 1;  // six figures and the state

// Heatmap cells of one kind, row after row: a state for each, figures for those
// that have any.
class Cells {
 public:
  void add(const KvError& error) {
    if (error.nonfinite > 0) nonfinite_[std::to_string(states_.size())] = error.nonfinite;
    states_ += state(error);
    if (states_.back() != '~' && states_.back() != '!') return;
    append_packed(figures_, error.relative_l2());
    append_packed(figures_, error.relative_max());
    // Close to 1 the three digits of a packed number would be lost on the nines.
    append_packed(figures_, 1.0 - error.cosine());
    append_packed(figures_, error.scale_error());
    append_packed(figures_, error.ulp_p99());
    append_packed(figures_,
                  static_cast<double>(error.differing) / static_cast<double>(error.elements));
  }

  void add_missing() { states_ += '.'; }

  [[nodiscard]] Json json() const {
    Json result = {{"states", states_}};
    const bool uniform = !states_.empty() && figures_.empty() &&
                         states_.find_first_not_of(states_.front()) == std::string::npos;
    if (uniform) result["states"] = states_.substr(0, 1);
    if (!figures_.empty()) result["figures"] = figures_;
    if (!nonfinite_.empty()) result["nonfinite"] = nonfinite_;
    return result;
  }

 private:
  static char state(const KvError& error) {
    if (error.elements == 0) return '.';
    if (error.nonfinite > 0) return '!';
    return error.bitwise_equal() ? '=' : '~';
  }

  std::string states_;
  std::string figures_;
  Json nonfinite_ = Json::object();
};

// The rounding floor of each layer's storage type, so that the page can show an
// error in units of it.
Json floors(const KvProfile& profile) {
  std::string packed;
  for (std::size_t layer = 0; layer < profile.num_layers(); ++layer) {
    KvError error = profile.layer(KvKind::kKey, layer);
    error.add(profile.layer(KvKind::kValue, layer));
    append_packed(packed, error.sum_squared_reference > 0.0
                              ? std::sqrt(error.sum_squared_floor / error.sum_squared_reference)
                              : 0.0);
  }
  return packed;
}

Json departure_data(const analysis::Departure& departure) {
  const auto number = [](double value) { return std::isfinite(value) ? Json(value) : Json(); };
  return {{"kind", analysis::kv_kind_name(departure.kind)},
          {"layer", departure.layer},
          {"whole_layer", departure.whole_layer},
          {"position", departure.position},
          {"figure", departure.figure},
          {"measured", number(departure.measured)},
          {"typical", number(departure.typical)}};
}

KvError joined_blocks(const KvProfile& profile, KvKind kind, std::size_t layer, std::size_t first,
                      std::size_t count) {
  KvError error;
  const std::size_t end = std::min(first + count, profile.num_blocks());
  for (std::size_t block = first; block < end; ++block) {
    error.add(profile.block(kind, layer, block));
  }
  return error;
}

std::uint64_t blocks_to_join(const KvProfile& profile) {
  const std::uint64_t bytes = profile.num_layers() * analysis::kKvKinds.size() * kBytesPerCell;
  const std::uint64_t bytes_allowed = profile.block_positions() * kProfileBytesPerPosition;
  return std::max<std::uint64_t>(1, (bytes + bytes_allowed - 1) / bytes_allowed);
}

}  // namespace

Json blocks_data(const KvProfile& profile, std::uint64_t first_position,
                 const std::optional<analysis::Departure>& departure) {
  if (!profile.measured()) return nullptr;
  const std::uint64_t joined = blocks_to_join(profile);
  const std::uint64_t columns = (profile.num_blocks() + joined - 1) / joined;
  Json result = {{"axis", "position"},
                 {"rows", profile.num_layers()},
                 {"columns", columns},
                 {"width", profile.block_positions() * joined},
                 {"positions", profile.num_positions()},
                 {"first", first_position},
                 {"floor", floors(profile)}};
  for (const KvKind kind : analysis::kKvKinds) {
    Cells cells;
    for (std::size_t layer = 0; layer < profile.num_layers(); ++layer) {
      for (std::uint64_t column = 0; column < columns; ++column) {
        cells.add(joined_blocks(profile, kind, layer, column * joined, joined));
      }
    }
    result[std::string(analysis::kv_kind_name(kind))] = cells.json();
  }
  if (departure) result["departure"] = departure_data(*departure);
  return result;
}

Json heads_data(const KvProfile& profile) {
  if (!profile.measured()) return nullptr;
  std::uint32_t columns = 0;
  for (std::size_t layer = 0; layer < profile.num_layers(); ++layer) {
    columns = std::max(columns, profile.num_heads(layer));
  }
  Json result = {{"axis", "head"},
                 {"rows", profile.num_layers()},
                 {"columns", columns},
                 {"floor", floors(profile)}};
  for (const KvKind kind : analysis::kKvKinds) {
    Cells cells;
    for (std::size_t layer = 0; layer < profile.num_layers(); ++layer) {
      for (std::uint32_t head = 0; head < columns; ++head) {
        if (head < profile.num_heads(layer)) {
          cells.add(profile.head(kind, layer, head));
        } else {
          cells.add_missing();
        }
      }
    }
    result[std::string(analysis::kv_kind_name(kind))] = cells.json();
  }
  return result;
}

}  // namespace kvtool::report::html
