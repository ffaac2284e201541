#include "engine/cache/selection/page_selector.h"

#include <algorithm>
#include <limits>

namespace kvtool::engine {
namespace {

// [inputs, Hq, 1, D] -> [inputs, Hkv, group, D] in float32.
at::Tensor grouped(const at::Tensor& q, std::int64_t num_kv_heads) {
  return q.reshape({q.size(0), num_kv_heads, q.size(1) / num_kv_heads, q.size(3)}).to(at::kFloat);
}

// rows [inputs, heads, positions, dim] whose positions follow one another in memory; `starts`
// [inputs, heads, chunks] -> the `length` rows from each start on, [inputs, heads, chunks *
// length, dim]. A chunk is copied as one piece: it is an element of a view in which one begins at
// every row.
at::Tensor gather_chunks(const at::Tensor& rows, const at::Tensor& starts, std::int64_t length) {
  const std::int64_t dim = rows.size(3);
  const std::int64_t inputs = rows.size(0);
  const std::int64_t heads = rows.size(1);
  const std::int64_t head_step = rows.stride(1) / dim;
  const std::int64_t input_step = rows.stride(0) / dim;
  const std::int64_t begins =
      (inputs - 1) * input_step + (heads - 1) * head_step + rows.size(2) - length + 1;
  const at::Tensor chunks =
      rows.as_strided({begins, length * dim}, {dim, 1}, rows.storage_offset());
  const at::TensorOptions options = starts.options();
  const at::Tensor offsets = at::arange(inputs, options).mul_(input_step).view({inputs, 1, 1}) +
                             at::arange(heads, options).mul_(head_step).view({1, heads, 1});
  return chunks.index_select(0, (starts + offsets).flatten())
      .view({inputs, heads, starts.size(2) * length, dim});
}

// Positions [first, end) in chunks of one length, at least as long as which `end` is: the last
// ends with them, so that its first keys may be some that stand in the chunk before or ahead of
// them all, and are hidden.
class Stretch {
 public:
  Stretch(std::int64_t first, std::int64_t end, std::int64_t length)
      : first_(first), end_(end), length_(length) {}

  [[nodiscard]] std::int64_t chunks() const { return (end_ - first_ + length_ - 1) / length_; }
  // Keys of the last chunk.
  [[nodiscard]] std::int64_t hidden() const { return chunks() * length_ - (end_ - first_); }

  [[nodiscard]] at::Tensor starts(const at::TensorOptions& options) const {
    std::vector<std::int64_t> starts;
    for (std::int64_t chunk = 0; chunk < chunks(); ++chunk) {
      starts.push_back(std::min(first_ + chunk * length_, end_ - length_));
    }
    return at::tensor(starts, at::kLong).to(options.device());
  }

  // In a bias of chunks of which the stretch has those from `first_chunk` on.
  void hide(const at::Tensor& bias, std::int64_t first_chunk) const {
    if (hidden() == 0) return;
    bias.narrow(3, (first_chunk + chunks() - 1) * length_, hidden())
        .fill_(-std::numeric_limits<double>::infinity());
  }

 private:
  std::int64_t first_;
  std::int64_t end_;
  std::int64_t length_;
};

}  // namespace

PageSelector::PageSelector(const cache::CacheSpec& spec, const RowLayout& layout,
                           const BatchShape& shape, at::Device device)
    : KeySelector(spec),
      ranking_(make_page_ranking(budget().selection())),
      shape_(&shape),
      page_(static_cast<std::int64_t>(budget().page())) {
  const at::TensorOptions options = at::TensorOptions(at::kFloat).device(device);
  for (std::int64_t layer = 0; layer < layout.num_layers(); ++layer) {
    LayerPages pages;
    if (ranking_->numbers() > 0 && budget().selects(static_cast<std::uint64_t>(layer))) {
      const RowLayout::Entry& key = layout.key(layer);
      pages.summaries = at::empty(
          {shape.rows(), key.heads, shape.capacity() / page_, ranking_->numbers() * key.dim},
          options);
      pages.ready.assign(static_cast<std::size_t>(shape.rows()), 0);
    }
    layers_.push_back(std::move(pages));
  }
}

bool PageSelector::chooses(const AttentionCall& call, std::int64_t position) const {
  return budget().selects(static_cast<std::uint64_t>(call.layer)) &&
         budget().split(place_of(call, position)).has_value();
}

void PageSelector::clear(const BatchShape& shape) {
  KeySelector::clear(shape);
  shape_ = &shape;
  forget_from(0);
}

void PageSelector::forget_from(std::int64_t slot) {
  for (LayerPages& layer : layers_) {
    for (std::size_t row = 0; row < layer.ready.size(); ++row) {
      const std::int64_t position = slot - shape_->padding(static_cast<std::int64_t>(row));
      layer.ready[row] = std::min(layer.ready[row], std::max<std::int64_t>(0, position) / page_);
    }
  }
}

std::uint64_t PageSelector::bytes() const {
  std::uint64_t bytes = 0;
  for (const LayerPages& layer : layers_) {
    if (layer.summaries.defined()) bytes += layer.summaries.nbytes();
  }
  return bytes;
}

at::Tensor PageSelector::attend_chosen(const AttentionCall& call, const StepQueries& step) {
  const Choice choice = choose(
      call, {step.first_row, step.position, step.q, [&](std::int64_t first, std::int64_t count) {
               return step.rows.k.narrow(2, first, count);
             }});
  const Chunks chunks =
      chunks_of(choice.pages, place_of(call, step.position), choice.split, step.q.scalar_type());
  AttentionParams params = params_of(call);
  params.sliding_window = 0;  // held by the chunks
  return causal_attention(step.q, gather_chunks(step.rows.k, chunks.starts, page_),
                          gather_chunks(step.rows.v, chunks.starts, page_), params, chunks.bias);
}

PageSelector::Choice PageSelector::choose(const AttentionCall& call, const Step& step) {
  const cache::QueryPlace place = place_of(call, step.position);
  const cache::PageSplit split = budget().split(place).value();
  const auto first = static_cast<std::int64_t>(split.first_candidate);
  const auto end = static_cast<std::int64_t>(split.recent_page);
  const std::int64_t heads = call.k.size(1);
  if (split.chosen == 0) {
    return {split, at::empty({step.q.size(0), heads, 0}, step.q.options().dtype(at::kLong)),
            at::empty({step.q.size(0), heads, 0}, step.q.options().dtype(at::kFloat))};
  }
  LayerPages& layer = layers_[static_cast<std::size_t>(call.layer)];
  PageQuery query{call, grouped(step.q, heads), step.position, step.keys, {}};
  query.first_visible = static_cast<std::int64_t>(place.first_visible());
  query.page = page_;
  query.first = first;
  query.end = end;
  if (layer.summaries.defined()) {
    summarize_up_to(end, layer, step);
    query.summaries =
        layer.summaries.narrow(0, step.first_row, step.q.size(0)).narrow(2, first, end - first);
  }
  at::Tensor scores = ranking_->scores(query);
  // Stable: of equal scores the earlier page comes first.
  const at::Tensor pages =
      std::get<1>(at::sort(scores, /*stable=*/true, /*dim=*/2, /*descending=*/true));
  return {split, pages.narrow(2, 0, static_cast<std::int64_t>(split.chosen)) + first,
          std::move(scores)};
}

at::Tensor PageSelector::shares(const AttentionCall& call, const Choice& choice) const {
  return ranking_->shares(choice.scores, call).mean(1).cpu();
}

void PageSelector::summarize_up_to(std::int64_t pages, LayerPages& layer, const Step& step) const {
  // Of inputs that stand at the same position; what was written over may differ.
  std::int64_t from = pages;
  for (std::int64_t input = 0; input < step.q.size(0); ++input) {
    from = std::min(from, layer.ready[static_cast<std::size_t>(step.first_row + input)]);
  }
  if (from >= pages) return;
  const std::int64_t count = pages - from;
  const at::Tensor keys =
      step.keys(from * page_, count * page_).to(at::kFloat).unflatten(2, {count, page_});
  for (std::int64_t input = 0; input < step.q.size(0); ++input) {
    const std::int64_t row = step.first_row + input;
    std::int64_t& ready = layer.ready[static_cast<std::size_t>(row)];
    if (ready >= pages) continue;
    layer.summaries.select(0, row)
        .narrow(1, ready, pages - ready)
        .copy_(ranking_->summarize(keys.select(0, input).narrow(1, ready - from, pages - ready)));
    ready = pages;
  }
}

PageSelector::Chunks PageSelector::chunks_of(const at::Tensor& pages,
                                             const cache::QueryPlace& place,
                                             const cache::PageSplit& split, at::ScalarType dtype) {
  if (!always_ || always_->place != place) {
    always_ = always_seen(place, split, pages.options(), pages.options().dtype(dtype));
  }
  const auto for_all = [&](const at::Tensor& starts) {
    return starts.view({1, 1, -1}).expand({pages.size(0), pages.size(1), -1});
  };
  return {at::cat({for_all(always_->sinks), pages * page_, for_all(always_->recent)}, 2),
          always_->bias};
}

PageSelector::AlwaysSeen PageSelector::always_seen(const cache::QueryPlace& place,
                                                   const cache::PageSplit& split,
                                                   const at::TensorOptions& starts,
                                                   const at::TensorOptions& bias) const {
  const auto visible = static_cast<std::int64_t>(place.first_visible());
  const auto sinks_end = static_cast<std::int64_t>(split.sinks_end);
  const Stretch sinks(visible, std::max(visible, sinks_end), page_);
  const Stretch recent(std::max(visible, static_cast<std::int64_t>(split.recent_page) * page_),
                       static_cast<std::int64_t>(place.position) + 1, page_);
  const std::int64_t before_recent = sinks.chunks() + static_cast<std::int64_t>(split.chosen);
  AlwaysSeen seen{place, sinks.starts(starts), recent.starts(starts), std::nullopt};
  if (sinks.hidden() + recent.hidden() == 0) return seen;
  seen.bias = at::zeros({1, 1, 1, (before_recent + recent.chunks()) * page_}, bias);
  sinks.hide(*seen.bias, 0);
  recent.hide(*seen.bias, before_recent);
  return seen;
}

}  // namespace kvtool::engine
