// What a query sees under a policy that selects keys, against attention over the keys that the
// definition names, one query and K/V head at a time (docs/caches.md).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/batch_shape.h"
#include "engine/cache/attention.h"
#include "engine/cache/policies.h"
#include "engine/cache/policy_param.h"
#include "support/error_of.h"

namespace kvtool::engine {
namespace {

constexpr std::int64_t kKvHeads = 2;
constexpr std::int64_t kQueryHeads = 6;
constexpr std::int64_t kKeyDim = 8;
constexpr std::int64_t kValueDim = 6;

// Two layers alike.
format::Geometry selector_geometry() {
  const format::LayerGeometry layer{DType::kFloat32, DType::kFloat32, kKvHeads, kKeyDim, kValueDim};
  return format::Geometry({layer, layer});
}

// What a model computes of some positions: [B, heads, positions, dim].
struct ModelRows {
  at::Tensor q, k, v;

  static ModelRows random(std::int64_t rows, std::int64_t positions) {
    return {at::randn({rows, kQueryHeads, positions, kKeyDim}),
            at::randn({rows, kKvHeads, positions, kKeyDim}),
            at::randn({rows, kKvHeads, positions, kValueDim})};
  }
  [[nodiscard]] ModelRows cut(std::int64_t row, std::int64_t rows, std::int64_t first,
                              std::int64_t count) const {
    const auto part = [&](const at::Tensor& t) {
      return t.narrow(0, row, rows).narrow(2, first, count);
    };
    return {part(q), part(k), part(v)};
  }
};

// What the layer of a model asks for.
struct LayerAsks {
  std::int64_t window = 0;
  double softcap = 0.0;
  std::optional<at::Tensor> sinks = std::nullopt;
};

at::Tensor attend_slots(KvCache& cache, SlotRange slots, const ModelRows& rows,
                        const LayerAsks& asks, std::int64_t layer = 0) {
  cache.begin(slots);
  return cache.attend({rows.q, rows.k, rows.v, layer, 0.4, asks.window, asks.softcap, asks.sinks});
}

// Of one query: q [kQueryHeads, kKeyDim], and of the keys those that are named per K/V head.
// [kQueryHeads, kValueDim].
at::Tensor attend_to(const at::Tensor& q, const ModelRows& input,
                     const std::vector<std::vector<std::int64_t>>& seen, const LayerAsks& asks) {
  at::Tensor output = at::empty({kQueryHeads, kValueDim});
  for (std::int64_t head = 0; head < kQueryHeads; ++head) {
    const std::int64_t kv_head = head / (kQueryHeads / kKvHeads);
    const at::Tensor index = at::tensor(seen[static_cast<std::size_t>(kv_head)]);
    const at::Tensor k = input.k[0][kv_head].index_select(0, index);
    const at::Tensor v = input.v[0][kv_head].index_select(0, index);
    at::Tensor scores = at::mv(k, q[head]) * 0.4;
    if (asks.softcap > 0.0) scores = asks.softcap * at::tanh(scores / asks.softcap);
    if (asks.sinks) scores = at::cat({scores, (*asks.sinks)[head].view({1})});
    const at::Tensor weights = at::softmax(scores, 0).narrow(0, 0, index.size(0));
    output[head] = at::mv(v.t(), weights);
  }
  return output;
}

// Keys of a window at `position`.
std::vector<std::int64_t> window_of(std::int64_t position, std::int64_t sinks, std::int64_t recent,
                                    std::int64_t model_window) {
  std::vector<std::int64_t> seen;
  for (std::int64_t key = 0; key <= position; ++key) {
    const std::int64_t distance = position - key;
    if (model_window > 0 && distance >= model_window) continue;
    if (key < sinks || distance < recent) seen.push_back(key);
  }
  return seen;
}

class KeySelectorTest : public testing::Test {
 protected:
  KeySelectorTest() { at::manual_seed(17); }

  [[nodiscard]] std::unique_ptr<KvCache> make(const std::string& spec,
                                              const BatchShape& shape) const {
    return cache_maker(cache::CacheSpec::parse(spec))(layout_, shape, at::kCPU);
  }

  RowLayout layout_{selector_geometry()};
  std::vector<std::int32_t> prompt_ = std::vector<std::int32_t>(7, 1);
  std::vector<std::int32_t> short_ = std::vector<std::int32_t>(3, 1);
};

using WindowSelectorTest = KeySelectorTest;

TEST_F(WindowSelectorTest, AQuerySeesSinksAndRecentPositions) {
  const BatchShape shape({prompt_}, 7, 20);
  const ModelRows input = ModelRows::random(1, 20);
  for (const LayerAsks& asks : {LayerAsks{}, LayerAsks{6}, LayerAsks{3}, LayerAsks{0, 2.0},
                                LayerAsks{11, 0.0, at::randn({kQueryHeads})}}) {
    const std::unique_ptr<KvCache> kept = make("window:sinks=2,recent=4", shape);
    const at::Tensor prompt = attend_slots(*kept, {0, 7}, input.cut(0, 1, 0, 7), asks);
    for (std::int64_t position = 0; position < 20; ++position) {
      const at::Tensor actual =
          position < 7
              ? prompt[0][position]
              : attend_slots(*kept, {position, 1}, input.cut(0, 1, position, 1), asks)[0][0];
      const std::vector<std::int64_t> seen = window_of(position, 2, 4, asks.window);
      const at::Tensor expected =
          attend_to(input.q[0].select(1, position), input, {seen, seen}, asks);
      EXPECT_TRUE(at::allclose(actual, expected, 1e-5, 1e-6)) << position << ' ' << asks.window;
    }
  }
}

TEST_F(WindowSelectorTest, NumbersLargerThanAnyInputShowEverything) {
  const BatchShape shape({prompt_}, 7, 20);
  const ModelRows input = ModelRows::random(1, 7);
  const at::Tensor all = attend_slots(*make("contiguous", shape), {0, 7}, input, {});
  for (const std::string option : {"sinks", "recent"}) {
    const auto kept = make("window:" + option + "=18446744073709551615", shape);
    EXPECT_TRUE(attend_slots(*kept, {0, 7}, input, {}).equal(all)) << option;
  }
}

TEST_F(WindowSelectorTest, CountsWhatStepsSaw) {
  const BatchShape shape({prompt_, short_}, 7, 20);
  const ModelRows input = ModelRows::random(2, 9);
  const std::unique_ptr<KvCache> kept = make("window:sinks=2,recent=3", shape);
  attend_slots(*kept, {0, 7}, input.cut(0, 2, 0, 7), {});
  EXPECT_EQ(kept->use().visible_keys, 0U);
  attend_slots(*kept, {7, 1}, input.cut(0, 2, 7, 1), {});
  attend_slots(*kept, {8, 1}, input.cut(0, 2, 8, 1), {});
  attend_slots(*kept, {8, 1}, input.cut(0, 2, 8, 1), {3}, 1);
  const cache::CacheUse use = kept->use();
  // Contexts of 8 and 9, 4 and 5, and in a window of 3 of layer 1.
  EXPECT_EQ(use.visible_keys, 8U + 9 + 4 + 5 + 3 + 3);
  EXPECT_EQ(use.seen_keys, 5U + 5 + 4 + 5 + 3 + 3);
  EXPECT_EQ(use.most_visible_keys, 9U);
  // In layer 0, of 9 positions and of 5, the keys 2 to 6 and 2.
  EXPECT_EQ(use.evicted_rows, 5U + 1);
}

// The options of a policy that selects pages, as the tests below choose them.
struct PageOptions {
  std::int64_t page = 2;
  std::int64_t budget = 3;
  std::int64_t sinks = 0;
  std::int64_t recent = 1;

  [[nodiscard]] std::string spec_of(const std::string& policy) const {
    return policy + ":page=" + std::to_string(page) + ",budget=" + std::to_string(budget) +
           ",sinks=" + std::to_string(sinks) + ",recent=" + std::to_string(recent) + ",dense=0";
  }
};

std::uint64_t split_mix(std::uint64_t seed) {
  std::uint64_t z = seed + 0x9e3779b97f4a7c15U;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
  return z ^ (z >> 31);
}

using Vector = std::vector<double>;

// [rows, dim] as plain numbers.
std::vector<Vector> numbers_of(const at::Tensor& rows) {
  const at::Tensor exact = rows.to(at::kDouble).contiguous();
  std::vector<Vector> numbers;
  for (std::int64_t row = 0; row < exact.size(0); ++row) {
    const double* first = exact.const_data_ptr<double>() + row * exact.size(1);
    numbers.emplace_back(first, first + exact.size(1));
  }
  return numbers;
}

double product(const Vector& a, const Vector& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

// Of one query head: how much it wants the page that holds `keys`.
double wants(const std::string& policy, const Vector& q, const std::vector<Vector>& keys) {
  double score = 0.0;
  for (std::size_t channel = 0; channel < q.size(); ++channel) {
    Vector values;
    for (const Vector& key : keys) values.push_back(key[channel]);
    const auto count = static_cast<double>(values.size());
    const double mean = std::accumulate(values.begin(), values.end(), 0.0) / count;
    double squares = 0.0;
    for (const double value : values) squares += (value - mean) * (value - mean);
    const auto [smallest, largest] = std::minmax_element(values.begin(), values.end());
    if (policy == "quest") {
      score += std::max(q[channel] * *largest, q[channel] * *smallest);
    } else {
      score += q[channel] * mean;
    }
    if (policy == "mean-deviation") score += std::abs(q[channel]) * std::sqrt(squares / count);
  }
  return score;
}

// What attention of one query head over `keys`, of which some are hidden, gives to those from
// `first` on. The sink has a logit, or none.
double mass_of(const Vector& q, const std::vector<Vector>& keys, std::size_t lowest,
               std::size_t first, std::size_t count, double softcap,
               const std::optional<double>& sink) {
  double total = sink ? std::exp(*sink) : 0.0;
  double of_page = 0.0;
  for (std::size_t key = lowest; key < keys.size(); ++key) {
    double score = product(q, keys[key]) * 0.4;
    if (softcap > 0.0) score = softcap * std::tanh(score / softcap);
    total += std::exp(score);
    if (key >= first && key < first + count) of_page += std::exp(score);
  }
  return of_page / total;
}

// The formulas of docs/caches.md: how much K/V head `kv_head` wants the page whose keys begin at
// `first`. q [kQueryHeads, kKeyDim].
double score_by_definition(const std::string& policy, const at::Tensor& q, const ModelRows& input,
                           std::int64_t kv_head, std::int64_t position, std::int64_t first,
                           std::int64_t page, const LayerAsks& asks) {
  constexpr std::int64_t kGroup = kQueryHeads / kKvHeads;
  if (policy == "random") {
    std::uint64_t state = split_mix(0);  // of layer 0
    state = split_mix(state ^ static_cast<std::uint64_t>(kv_head));
    state = split_mix(state ^ static_cast<std::uint64_t>(position));
    return static_cast<double>(split_mix(state ^ static_cast<std::uint64_t>(first / page)) >> 40);
  }
  const std::vector<Vector> keys = numbers_of(input.k[0][kv_head].narrow(0, 0, position + 1));
  const auto begin = keys.begin() + static_cast<std::ptrdiff_t>(first);
  const std::vector<Vector> of_page(begin, begin + static_cast<std::ptrdiff_t>(page));
  double best = -std::numeric_limits<double>::infinity();
  double mass = 0.0;
  for (std::int64_t head = kv_head * kGroup; head < (kv_head + 1) * kGroup; ++head) {
    const Vector query = numbers_of(q.narrow(0, head, 1)).front();
    if (policy == "mass") {
      const std::int64_t lowest =
          asks.window > 0 ? std::max<std::int64_t>(0, position - asks.window + 1) : 0;
      const std::optional<double> sink =
          asks.sinks ? std::optional((*asks.sinks)[head].item<double>()) : std::nullopt;
      mass +=
          mass_of(query, keys, static_cast<std::size_t>(lowest), static_cast<std::size_t>(first),
                  static_cast<std::size_t>(page), asks.softcap, sink);
    } else {
      best = std::max(best, wants(policy, query, of_page));
    }
  }
  return policy == "mass" ? mass : best;
}

// Of every K/V head: the keys that a step at `position` sees.
std::vector<std::vector<std::int64_t>> seen_by_definition(
    const std::string& policy, const at::Tensor& q, const ModelRows& input, std::int64_t position,
    const PageOptions& options, const LayerAsks& asks) {
  const std::int64_t lowest =
      asks.window > 0 ? std::max<std::int64_t>(0, position - asks.window + 1) : 0;
  const std::int64_t last_page = position / options.page;
  const std::int64_t first_page = lowest / options.page;
  std::vector<std::vector<std::int64_t>> seen;
  for (std::int64_t head = 0; head < kKvHeads; ++head) {
    std::vector<std::pair<double, std::int64_t>> ranked;  // best first, then lowest
    std::vector<bool> sees(static_cast<std::size_t>(last_page) + 1, false);
    std::int64_t left = options.budget;
    for (std::int64_t page = first_page; page <= last_page; ++page) {
      if (page < options.sinks || page > last_page - options.recent) {
        sees[static_cast<std::size_t>(page)] = true;
        --left;
      } else if (page * options.page >= lowest) {
        ranked.emplace_back(-score_by_definition(policy, q, input, head, position,
                                                 page * options.page, options.page, asks),
                            page);
      }
    }
    std::sort(ranked.begin(), ranked.end());
    for (const auto& [score, page] : ranked) {
      if (left-- > 0) sees[static_cast<std::size_t>(page)] = true;
    }
    const bool all = last_page - first_page + 1 <= options.budget;
    std::vector<std::int64_t> keys;
    for (std::int64_t key = lowest; key <= position; ++key) {
      if (all || sees[static_cast<std::size_t>(key / options.page)]) keys.push_back(key);
    }
    seen.push_back(keys);
  }
  return seen;
}

class PageSelectorTest : public KeySelectorTest, public testing::WithParamInterface<const char*> {};

TEST_P(PageSelectorTest, AStepSeesThePagesOfItsDefinition) {
  const std::string policy = GetParam();
  const BatchShape shape({prompt_}, 7, 40);
  const ModelRows input = ModelRows::random(1, 40);
  const std::vector<PageOptions> all_options{
      {2, 3, 0, 1}, {3, 4, 1, 2}, {4, 2, 0, 1}, {5, 3, 2, 1}, {1, 6, 0, 3}};
  for (const PageOptions& options : all_options) {
    for (const LayerAsks& asks : {LayerAsks{}, LayerAsks{17}, LayerAsks{6}, LayerAsks{0, 2.0},
                                  LayerAsks{23, 0.0, at::randn({kQueryHeads})}}) {
      const std::unique_ptr<KvCache> kept = make(options.spec_of(policy), shape);
      attend_slots(*kept, {0, 7}, input.cut(0, 1, 0, 7), asks);
      std::uint64_t keys = 0;
      for (std::int64_t position = 7; position < 40; ++position) {
        const at::Tensor actual =
            attend_slots(*kept, {position, 1}, input.cut(0, 1, position, 1), asks)[0][0];
        const at::Tensor q = input.q[0].select(1, position);
        const auto seen = seen_by_definition(policy, q, input, position, options, asks);
        EXPECT_TRUE(at::allclose(actual, attend_to(q, input, seen, asks), 1e-5, 1e-5))
            << options.spec_of(policy) << " at " << position << " in a window of " << asks.window;
        keys += seen[0].size();
      }
      EXPECT_EQ(kept->use().seen_keys, keys) << options.spec_of(policy);
      if (asks.window == 0) {
        EXPECT_LT(kept->use().seen_keys, kept->use().visible_keys);
      }
    }
  }
}

TEST_P(PageSelectorTest, APromptSeesEverything) {
  const BatchShape shape({prompt_}, 7, 20);
  const ModelRows input = ModelRows::random(1, 7);
  const auto kept = make(PageOptions{}.spec_of(GetParam()), shape);
  EXPECT_TRUE(attend_slots(*kept, {0, 7}, input, {})
                  .equal(attend_slots(*make("contiguous", shape), {0, 7}, input, {})));
}

TEST_P(PageSelectorTest, ARowOfAPaddedBatchSeesWhatItSeesAlone) {
  const std::string spec = PageOptions{3, 2, 0, 1}.spec_of(GetParam());
  const BatchShape shape({prompt_, short_}, 7, 30);
  const ModelRows input = ModelRows::random(2, 30);
  const std::unique_ptr<KvCache> batch = make(spec, shape);
  attend_slots(*batch, {0, 7}, input.cut(0, 2, 0, 7), {});
  const BatchShape long_shape({prompt_}, 7, 30);
  const BatchShape short_shape({short_}, 3, 26);
  const std::unique_ptr<KvCache> first = make(spec, long_shape);
  const std::unique_ptr<KvCache> second = make(spec, short_shape);
  attend_slots(*first, {0, 7}, input.cut(0, 1, 0, 7), {});
  attend_slots(*second, {0, 3}, input.cut(1, 1, 4, 3), {});
  for (std::int64_t slot = 7; slot < 30; ++slot) {
    const at::Tensor both = attend_slots(*batch, {slot, 1}, input.cut(0, 2, slot, 1), {});
    const at::Tensor alone = attend_slots(*first, {slot, 1}, input.cut(0, 1, slot, 1), {});
    const at::Tensor shorter = attend_slots(*second, {slot - 4, 1}, input.cut(1, 1, slot, 1), {});
    EXPECT_TRUE(at::allclose(both.narrow(0, 0, 1), alone, 1e-5, 1e-6));
    EXPECT_TRUE(at::allclose(both.narrow(0, 1, 1), shorter, 1e-5, 1e-6));
  }
}

TEST_P(PageSelectorTest, RowsAtTheSamePositionAreServedTogether) {
  const std::string spec = PageOptions{3, 2, 0, 1}.spec_of(GetParam());
  const BatchShape shape({prompt_, prompt_}, 7, 30);
  const BatchShape single({prompt_}, 7, 30);
  const ModelRows input = ModelRows::random(2, 30);
  const std::unique_ptr<KvCache> batch = make(spec, shape);
  attend_slots(*batch, {0, 7}, input.cut(0, 2, 0, 7), {});
  std::vector<std::unique_ptr<KvCache>> alone;
  for (std::int64_t row = 0; row < 2; ++row) {
    alone.push_back(make(spec, single));
    attend_slots(*alone.back(), {0, 7}, input.cut(row, 1, 0, 7), {});
  }
  for (std::int64_t slot = 7; slot < 30; ++slot) {
    const at::Tensor both = attend_slots(*batch, {slot, 1}, input.cut(0, 2, slot, 1), {});
    for (std::int64_t row = 0; row < 2; ++row) {
      EXPECT_TRUE(at::allclose(both.narrow(0, row, 1),
                               attend_slots(*alone[static_cast<std::size_t>(row)], {slot, 1},
                                            input.cut(row, 1, slot, 1), {}),
                               1e-5, 1e-6));
    }
  }
}

// As an injected prompt is, after a pass has looked at what it replaces.
TEST_P(PageSelectorTest, ChoosesByRowsThatAreWrittenLater) {
  const std::string spec = PageOptions{2, 2, 0, 1}.spec_of(GetParam());
  const BatchShape shape({prompt_}, 7, 30);
  const ModelRows input = ModelRows::random(1, 12);
  const ModelRows other = ModelRows::random(1, 10);
  const std::unique_ptr<KvCache> written = make(spec, shape);
  attend_slots(*written, {0, 7}, other.cut(0, 1, 0, 7), {});
  for (std::int64_t slot = 7; slot < 10; ++slot) {
    attend_slots(*written, {slot, 1}, other.cut(0, 1, slot, 1), {});
  }
  for (std::int64_t slot = 0; slot < 10; ++slot) {
    written->write({0, 0, {slot, 1}},
                   {input.k[0].narrow(1, slot, 1), input.v[0].narrow(1, slot, 1)});
  }
  const std::unique_ptr<KvCache> plain = make(spec, shape);
  attend_slots(*plain, {0, 7}, input.cut(0, 1, 0, 7), {});
  for (std::int64_t slot = 7; slot < 10; ++slot) {
    attend_slots(*plain, {slot, 1}, input.cut(0, 1, slot, 1), {});
  }
  for (std::int64_t slot = 10; slot < 12; ++slot) {
    EXPECT_TRUE(attend_slots(*written, {slot, 1}, input.cut(0, 1, slot, 1), {})
                    .equal(attend_slots(*plain, {slot, 1}, input.cut(0, 1, slot, 1), {})));
  }
}

TEST_P(PageSelectorTest, FirstLayersSeeEverything) {
  const BatchShape shape({prompt_}, 7, 20);
  const ModelRows input = ModelRows::random(1, 20);
  const std::string policy = GetParam();
  const auto kept = make(policy + ":page=2,budget=1,sinks=0,recent=1,dense=1", shape);
  const auto plain = make("contiguous", shape);
  for (const std::int64_t layer : {0, 1}) {
    attend_slots(*kept, {0, 7}, input.cut(0, 1, 0, 7), {}, layer);
    attend_slots(*plain, {0, 7}, input.cut(0, 1, 0, 7), {}, layer);
    const at::Tensor chosen = attend_slots(*kept, {7, 1}, input.cut(0, 1, 7, 1), {}, layer);
    const at::Tensor all = attend_slots(*plain, {7, 1}, input.cut(0, 1, 7, 1), {}, layer);
    EXPECT_EQ(chosen.equal(all), layer == 0);
  }
  EXPECT_EQ(kept->use().visible_keys, 8U);
  EXPECT_EQ(kept->use().seen_keys, 2U);
}

INSTANTIATE_TEST_SUITE_P(Rankings, PageSelectorTest,
                         testing::Values("quest", "mean-key", "mean-deviation", "mass", "random"),
                         [](const auto& param_info) {
                           std::string name(param_info.param);
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST_F(KeySelectorTest, OfEqualScoresTheEarlierPageIsSeen) {
  const BatchShape shape({prompt_}, 7, 40);
  ModelRows input = ModelRows::random(1, 40);
  input.k.fill_(0.5);
  for (const std::string policy : {"quest", "mean-key", "mean-deviation", "mass"}) {
    const auto kept = make(PageOptions{2, 4, 1, 1}.spec_of(policy), shape);
    attend_slots(*kept, {0, 7}, input.cut(0, 1, 0, 7), {});
    at::Tensor last;
    for (std::int64_t slot = 7; slot < 40; ++slot) {
      last = attend_slots(*kept, {slot, 1}, input.cut(0, 1, slot, 1), {});
    }
    // The sink, two pages, the recent one.
    const std::vector<std::int64_t> seen{0, 1, 2, 3, 4, 5, 38, 39};
    EXPECT_TRUE(at::allclose(
        last[0][0], attend_to(input.q[0].select(1, 39), input, {seen, seen}, {}), 1e-5, 1e-6))
        << policy;
  }
}

}  // namespace
}  // namespace kvtool::engine
