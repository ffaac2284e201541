#include "engine/cache/selection/page_ranking.h"

#include <string>
#include <vector>

#include "kvtool/base/error.h"

namespace kvtool::engine {
namespace {

// Scores that are products of what is kept of a page with something of the query. Of the query
// heads that share a K/V head, the one that wants a page most decides.
class LinearRanking : public PageRanking {
 public:
  [[nodiscard]] at::Tensor scores(const PageQuery& query) const override {
    return at::matmul(features(query.q), query.summaries.transpose(2, 3)).amax(2);
  }

 private:
  // [.., key_dim] -> [.., numbers() * key_dim]
  [[nodiscard]] virtual at::Tensor features(const at::Tensor& q) const = 0;
};

// Of each channel the largest product that a key of the page could have: q * max where q is
// positive, q * min where it is not.
class QuestRanking : public LinearRanking {
 public:
  [[nodiscard]] std::int64_t numbers() const override { return 2; }
  [[nodiscard]] at::Tensor summarize(const at::Tensor& keys) const override {
    return at::cat({keys.amax(-2), keys.amin(-2)}, -1);
  }

 private:
  [[nodiscard]] at::Tensor features(const at::Tensor& q) const override {
    return at::cat({q.clamp_min(0.0), q.clamp_max(0.0)}, -1);
  }
};

class MeanKeyRanking : public LinearRanking {
 public:
  [[nodiscard]] std::int64_t numbers() const override { return 1; }
  [[nodiscard]] at::Tensor summarize(const at::Tensor& keys) const override {
    return keys.mean(-2);
  }

 private:
  [[nodiscard]] at::Tensor features(const at::Tensor& q) const override { return q; }
};

class MeanDeviationRanking : public LinearRanking {
 public:
  [[nodiscard]] std::int64_t numbers() const override { return 2; }
  [[nodiscard]] at::Tensor summarize(const at::Tensor& keys) const override {
    const at::Tensor mean = keys.mean(-2, /*keepdim=*/true);
    return at::cat({mean.squeeze(-2), (keys - mean).square_().mean(-2).sqrt_()}, -1);
  }

 private:
  [[nodiscard]] at::Tensor features(const at::Tensor& q) const override {
    return at::cat({q, q.abs()}, -1);
  }
};

// What attention over everything visible gives to the page, summed over the query heads.
class MassRanking : public PageRanking {
 public:
  [[nodiscard]] at::Tensor scores(const PageQuery& query) const override {
    const std::int64_t visible = query.position + 1 - query.first_visible;
    const at::Tensor keys = query.keys(query.first_visible, visible).to(at::kFloat);
    at::Tensor scores = at::matmul(query.q, keys.transpose(2, 3)).mul_(query.call.scale);
    const double softcap = query.call.softcap;
    if (softcap > 0.0) scores.div_(softcap).tanh_().mul_(softcap);
    const at::Tensor mass = weights(scores, query.call.sinks).sum(2);
    return mass.narrow(2, query.first * query.page - query.first_visible, pages(query) * query.page)
        .reshape({mass.size(0), mass.size(1), pages(query), query.page})
        .sum(3);
  }
  // They are the shares, of all query heads of the group.
  [[nodiscard]] at::Tensor shares(const at::Tensor& scores,
                                  const AttentionCall& call) const override {
    return scores * (static_cast<double>(scores.size(1)) / static_cast<double>(call.q.size(1)));
  }

 private:
  static std::int64_t pages(const PageQuery& query) { return query.end - query.first; }

  // scores [inputs, num_kv_heads, group, keys]; a sink takes its part and has no key.
  static at::Tensor weights(const at::Tensor& scores, const std::optional<at::Tensor>& sinks) {
    if (!sinks) return at::softmax(scores, 3);
    const at::Tensor column = sinks->to(at::kFloat)
                                  .reshape({1, scores.size(1), scores.size(2), 1})
                                  .expand({scores.size(0), -1, -1, -1});
    return at::softmax(at::cat({scores, column}, 3), 3).narrow(3, 0, scores.size(3));
  }
};

// The output of SplitMix64 (Steele, Lea and Flood, Fast Splittable Pseudorandom Number
// Generators, OOPSLA 2014) for this state.
std::uint64_t mix(std::uint64_t state) {
  state += 0x9e3779b97f4a7c15U;
  state = (state ^ (state >> 30)) * 0xbf58476d1ce4e5b9U;
  state = (state ^ (state >> 27)) * 0x94d049bb133111ebU;
  return state ^ (state >> 31);
}

// By nothing of the keys, so that nothing is known of their share either.
class BlindRanking : public PageRanking {
 public:
  [[nodiscard]] at::Tensor shares(const at::Tensor& scores, const AttentionCall&) const override {
    return at::full_like(scores, 1.0 / static_cast<double>(scores.size(2)));
  }
};

// The last ones.
class WindowRanking : public BlindRanking {
 public:
  [[nodiscard]] at::Tensor scores(const PageQuery& query) const override {
    return at::arange(query.first, query.end, query.q.options())
        .view({1, 1, -1})
        .expand({query.q.size(0), query.q.size(1), -1});
  }
};

// By layer, K/V head, position of the query and page alone, so that every
// run chooses the same.
class RandomRanking : public BlindRanking {
 public:
  [[nodiscard]] at::Tensor scores(const PageQuery& query) const override {
    const std::int64_t heads = query.q.size(1);
    std::vector<float> drawn;
    for (std::int64_t head = 0; head < heads; ++head) {
      std::uint64_t place = mix(static_cast<std::uint64_t>(query.call.layer));
      place = mix(place ^ static_cast<std::uint64_t>(head));
      place = mix(place ^ static_cast<std::uint64_t>(query.position));
      for (std::int64_t page = query.first; page < query.end; ++page) {
        // 24 bits, as many as a float holds.
        drawn.push_back(static_cast<float>(mix(place ^ static_cast<std::uint64_t>(page)) >> 40));
      }
    }
    return at::tensor(drawn)
        .to(query.q.device())
        .view({1, heads, query.end - query.first})
        .expand({query.q.size(0), -1, -1});
  }
};

}  // namespace

at::Tensor PageRanking::summarize(const at::Tensor&) const {
  throw_misuse("this ranking keeps nothing of a page");
}

at::Tensor PageRanking::shares(const at::Tensor& scores, const AttentionCall& call) const {
  at::Tensor products = scores * call.scale;
  if (call.softcap > 0.0) products.div_(call.softcap).tanh_().mul_(call.softcap);
  return at::softmax(products, 2);
}

std::unique_ptr<PageRanking> make_page_ranking(std::string_view policy) {
  if (policy == "quest") return std::make_unique<QuestRanking>();
  if (policy == "mean-key") return std::make_unique<MeanKeyRanking>();
  if (policy == "mean-deviation") return std::make_unique<MeanDeviationRanking>();
  if (policy == "mass") return std::make_unique<MassRanking>();
  if (policy == "random") return std::make_unique<RandomRanking>();
  if (policy == "window") return std::make_unique<WindowRanking>();
  throw_misuse("the cache '" + std::string(policy) + "' ranks no pages");
}

}  // namespace kvtool::engine
