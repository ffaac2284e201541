// Which part of a cache bears few bits, in words and as JSON.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <set>

#include "cache_bench_words.h"
#include "lab/lab_tables.h"
#include "lab/lab_words.h"
#include "wording.h"

namespace kvtool::report {
namespace {

using run::LabPart;
using run::LabSensitivity;

constexpr double kHalf = 0.5;
// Of the noise: below it, what parts cost cannot be told from it.
constexpr double kBeyondNoise = 1.5;

std::vector<std::uint32_t> bits_of(const LabSensitivity& sensitivity) {
  std::vector<std::uint32_t> bits;
  for (const LabPart& part : sensitivity.parts) {
    if (std::ranges::find(bits, part.bits) == bits.end()) bits.push_back(part.bits);
  }
  return bits;
}

std::vector<std::string> part_names(const LabSensitivity& sensitivity) {
  std::vector<std::string> names;
  for (const LabPart& part : sensitivity.parts) {
    if (std::ranges::find(names, part.name) == names.end()) names.push_back(part.name);
  }
  return names;
}

const LabPart* find_part(const LabSensitivity& sensitivity, const std::string& name,
                         std::uint32_t bits) {
  const auto found = std::ranges::find_if(sensitivity.parts, [&](const LabPart& part) {
    return part.name == name && part.bits == bits;
  });
  return found == sensitivity.parts.end() ? nullptr : &*found;
}

std::string hard_of(const run::LabQuality& quality) { return std::to_string(quality.hard_flips); }

// What is there without any bits saved.
double beyond_noise(const LabPart& part, const LabSensitivity& sensitivity) {
  return std::max(0.0, part.quality.kl_mean.value_or(0.0) - sensitivity.full.kl_mean.value_or(0.0));
}

// "K costs 3 times what V does", without the noise that both have.
std::string key_or_value(const LabSensitivity& sensitivity, std::uint32_t bits) {
  const LabPart* keys = find_part(sensitivity, "K", bits);
  const LabPart* values = find_part(sensitivity, "V", bits);
  if (keys == nullptr || values == nullptr) return {};
  const double of_keys = beyond_noise(*keys, sensitivity);
  const double of_values = beyond_noise(*values, sensitivity);
  const bool is_key = of_keys >= of_values;
  const double least = std::min(of_keys, of_values);
  const std::string more = is_key ? "K" : "V";
  const std::string less = is_key ? "V" : "K";
  const double most = std::max(of_keys, of_values);
  if (!(least > 0.0)) return fmt::format("In {} bits {} alone costs anything.", bits, more);
  return fmt::format("In {} bits {} costs {} times what {} does (KL mean beyond the noise).", bits,
                     more, three_digits(most / least), less);
}

// Whether parts in so few bits stand out of the noise at all.
bool stands_out(const LabSensitivity& sensitivity, std::uint32_t bits) {
  const LabPart* all = find_part(sensitivity, "K and V", bits);
  return all != nullptr &&
         all->quality.kl_mean.value_or(0.0) > kBeyondNoise * sensitivity.full.kl_mean.value_or(0.0);
}

// "0-2+7" of {0, 1, 2, 7}.
std::string ranges(const std::set<std::uint64_t>& layers) {
  std::string text;
  for (auto at = layers.begin(); at != layers.end();) {
    const std::uint64_t first = *at;
    std::uint64_t last = first;
    while (++at != layers.end() && *at == last + 1) last = *at;
    if (!text.empty()) text += "+";
    text += std::to_string(first);
    if (last > first) text += "-" + std::to_string(last);
  }
  return text;
}

// The fewest layers that together make half of what all cost one by one.
std::string costly_layers(const LabSensitivity& sensitivity, std::uint32_t bits) {
  std::vector<const LabPart*> layers;
  for (const LabPart& part : sensitivity.parts) {
    if (part.layer && part.bits == bits) layers.push_back(&part);
  }
  const double sum = std::accumulate(
      layers.begin(), layers.end(), 0.0,
      [&](double all, const LabPart* part) { return all + beyond_noise(*part, sensitivity); });
  if (layers.size() < 2 || !(sum > 0.0)) return {};
  std::ranges::stable_sort(layers, std::greater<>(),
                           [&](const LabPart* part) { return beyond_noise(*part, sensitivity); });
  std::set<std::uint64_t> costly;
  std::set<std::uint64_t> others;
  double reached = 0.0;
  for (const LabPart* part : layers) {
    const bool takes = reached < kHalf * sum;
    (takes ? costly : others).insert(*part->layer);
    if (takes) reached += beyond_noise(*part, sensitivity);
  }
  if (others.empty()) return {};
  return fmt::format(
      "In {0} bits {1} of {2} layers ({3}) make {4:.0f}% of what layers cost one by one beyond the "
      "noise; kivi:k={0},v={0},layers={5} leaves them alone.",
      bits, costly.size(), layers.size(), ranges(costly), 100.0 * reached / sum, ranges(others));
}

}  // namespace

LabTable sensitivity_table(const LabSensitivity& sensitivity) {
  LabTable table{.title = "Which part bears few bits", .head = {"part"}, .rows = {}, .lines = {}};
  const std::vector<std::uint32_t> bits = bits_of(sensitivity);
  for (const std::uint32_t number : bits) {
    table.head.push_back(fmt::format("KL, {} bits", number));
    table.head.push_back("hard");
  }
  const auto add = [&](const std::string& name, const auto& quality_of) {
    std::vector<std::string> cells = {name};
    for (const std::uint32_t number : bits) {
      const run::LabQuality* quality = quality_of(number);
      cells.push_back(quality == nullptr ? "-" : lab_kl_mean(*quality));
      cells.push_back(quality == nullptr ? "-" : hard_of(*quality));
    }
    table.rows.push_back(std::move(cells));
  };
  add("none", [&](std::uint32_t) { return &sensitivity.full; });
  for (const std::string& name : part_names(sensitivity)) {
    add(name, [&](std::uint32_t number) {
      const LabPart* part = find_part(sensitivity, name, number);
      return part == nullptr ? nullptr : &part->quality;
    });
  }
  table.lines = {fmt::format(
      "One part alone in groups of few bits ({}), all else as the model made it; all steps at once "
      "(--parallel) in the mode {}, so that \"none\" is the noise of the others.",
      sensitivity.base, sensitivity.mode)};
  for (const std::uint32_t number : bits) {
    if (!stands_out(sensitivity, number)) {
      table.lines.push_back(
          fmt::format("In {} bits everything together stays within {} times the noise: leave "
                      "nothing alone.",
                      number, kBeyondNoise));
      continue;
    }
    for (std::string line :
         {key_or_value(sensitivity, number), costly_layers(sensitivity, number)}) {
      if (!line.empty()) table.lines.push_back(std::move(line));
    }
  }
  return table;
}

Json json_sensitivity(const LabSensitivity& sensitivity) {
  Json parts = Json::array();
  for (const LabPart& part : sensitivity.parts) {
    parts.push_back({{"part", part.name},
                     {"layer", part.layer ? Json(*part.layer) : Json(nullptr)},
                     {"bits", part.bits},
                     {"spec", part.spec},
                     {"quality", json_lab_quality(part.quality)}});
  }
  return {{"mode", sensitivity.mode},
          {"base", sensitivity.base},
          {"full", json_lab_quality(sensitivity.full)},
          {"parts", std::move(parts)}};
}

}  // namespace kvtool::report
