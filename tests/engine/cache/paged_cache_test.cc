// The cache paged with fewer frames than pages: what it holds, what it moves, and that its queries
// see everything all the same.
#include "engine/cache/paging/paged_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <thread>

#include "engine/cache/contiguous_cache.h"
#include "engine/cache/paging/partial_attention.h"
#include "engine/cache/policies.h"
#include "engine/toy_run.h"
#include "engine/toy_state.h"
#include "kvtool/cache/cache_plan.h"
#include "support/error_of.h"

namespace kvtool::engine {
namespace {

using format::ReplayMode;

cache::CacheSpec paged(const std::string& options) {
  return cache::CacheSpec::parse("paged:" + options);
}

TEST(PartialAttention, PartsAreTheWhole) {
  at::manual_seed(2);
  const at::Tensor q = at::randn({2, 4, 1, 8});
  const LayerKv rows{at::randn({2, 2, 12, 8}), at::randn({2, 2, 12, 6})};
  const at::Tensor sinks = at::randn({4});
  for (const double softcap : {0.0, 2.0}) {
    for (const bool with_sinks : {false, true}) {
      AttentionParams params{0.4, 0, softcap, std::nullopt};
      if (with_sinks) params.sinks = sinks;
      const at::Tensor expected = causal_attention(q, rows.k, rows.v, params, std::nullopt);
      PartialAttention attention(q, params);
      for (const auto& [first, count] : {std::pair(5, 7), std::pair(0, 2), std::pair(2, 3)}) {
        // The second row sees its keys in other parts, and in one of them none.
        at::Tensor hidden = at::ones({2, 1, 1, 12}, at::kBool);
        hidden.select(0, 0).narrow(2, first, count).fill_(false);
        if (first != 2)
          hidden.select(0, 1).narrow(2, first == 5 ? 0 : 9, first == 5 ? 9 : 3).fill_(false);
        attention.add(rows.k, rows.v, hidden);
      }
      EXPECT_TRUE(at::allclose(attention.result(), expected, 1e-5, 1e-6));
    }
  }
}

// Pages of exact rows, which a test can damage in host memory.
class FragilePages : public PageFormat {
 public:
  explicit FragilePages(std::unique_ptr<PageFormat> format) : format_(std::move(format)) {}

  // A store asks for the frames of a layer, then for its pages in host memory.
  [[nodiscard]] PageParts allocate(std::int64_t layer, std::int64_t rows, std::int64_t positions,
                                   const at::TensorOptions& options) const override {
    on_host_[layer] = format_->allocate(layer, rows, positions, options);
    return on_host_[layer];
  }
  void encode(std::int64_t layer, std::int64_t row, const LayerKv& rows, const PageParts& page,
              SlotRange within) const override {
    format_->encode(layer, row, rows, page, within);
  }
  void decode(std::int64_t layer, std::int64_t row, const PageParts& page, SlotRange within,
              const LayerKv& rows) const override {
    format_->decode(layer, row, page, within, rows);
  }
  [[nodiscard]] LayerKv as_kept(std::int64_t layer, std::int64_t row, const LayerKv& rows,
                                bool is_prompt) const override {
    return format_->as_kept(layer, row, rows, is_prompt);
  }
  [[nodiscard]] LayerKv shown(std::int64_t layer, const PageParts& frames) override {
    return format_->shown(layer, frames);
  }

  // One bit of the V of a row's first position in a layer.
  void damage(std::int64_t layer, std::int64_t row) const {
    const at::Tensor first = on_host_.at(layer).back().select(0, row).select(0, 0).select(0, 0);
    first.view(at::kByte).select(0, 0).bitwise_xor_(1);
  }

 private:
  std::unique_ptr<PageFormat> format_;
  mutable std::map<std::int64_t, PageParts> on_host_;
};

// Two rows, one padded, of a layer that sees everything and one with a window.
class PagedPasses : public testing::Test {
 protected:
  PagedPasses() { at::manual_seed(11); }

  std::unique_ptr<PagedCache> make(const std::string& options) const {
    const cache::PagedSettings settings = cache::paged_settings(paged(options));
    const cache::BatchExtent batch{2, static_cast<std::uint64_t>(shape_.capacity())};
    return std::make_unique<PagedCache>(
        settings, static_cast<std::int64_t>(settings.frames(layout_.geometry(), batch)), layout_,
        shape_, at::kCPU);
  }

  // The same pass over both caches: [B, S, Hq, Dv] of layer 0 and of layer 1.
  void pass(std::vector<KvCache*> caches, std::int64_t first, std::int64_t count) {
    for (KvCache* each : caches) each->begin({first, count});
    for (std::int64_t layer = 0; layer < 2; ++layer) {
      const at::Tensor q = at::randn({2, 4, count, 8});
      const at::Tensor k = at::randn({2, 2, count, 8});
      const at::Tensor v = at::randn({2, 2, count, 6});
      const std::optional<at::Tensor> sinks;
      std::vector<at::Tensor> outputs;
      for (KvCache* each : caches) {
        outputs.push_back(each->attend({q, k, v, layer, 0.3, layer == 0 ? 0 : 7, 0.0, sinks}));
      }
      for (std::int64_t row = 0; row < 2; ++row) {
        // What padding gives is never read.
        const std::int64_t skipped = std::max<std::int64_t>(0, shape_.padding(row) - first);
        const auto part = [&](const at::Tensor& output) {
          return output.select(0, row).narrow(0, skipped, count - skipped);
        };
        EXPECT_TRUE(at::allclose(part(outputs.front()), part(outputs.back()), 1e-5, 1e-6));
      }
    }
    for (KvCache* each : caches) each->end();
  }

  void expect_same_rows(const KvCache& one, const KvCache& other, std::int64_t end) const {
    for (std::int64_t row = 0; row < 2; ++row) {
      for (std::int64_t layer = 0; layer < 2; ++layer) {
        const std::int64_t padding = shape_.padding(row);
        const LayerKv ours = layout_.empty_rows(layer, end - padding, at::kCPU);
        const LayerKv theirs = layout_.empty_rows(layer, end - padding, at::kCPU);
        one.read({layer, row, {padding, end - padding}}, ours);
        other.read({layer, row, {padding, end - padding}}, theirs);
        EXPECT_TRUE(ours.k.equal(theirs.k));
        EXPECT_TRUE(ours.v.equal(theirs.v));
      }
    }
  }

  std::vector<std::int32_t> long_ = std::vector<std::int32_t>(11, 1);
  std::vector<std::int32_t> short_ = std::vector<std::int32_t>(6, 1);
  RowLayout layout_{format::Geometry(
      {{DType::kFloat32, DType::kFloat32, 2, 8, 6}, {DType::kFloat32, DType::kFloat32, 2, 8, 6}})};
  BatchShape shape_{{long_, short_}, 11, 40};
};

TEST_F(PagedPasses, QueriesSeeWhatTheySeeInOneBuffer) {
  for (const std::string residency : {"lru", "clock", "lru2"}) {
    for (const std::string device : {"4", "6", "10"}) {
      const auto paged = make("page=3,device=" + device + ",check=1,residency=" + residency);
      ContiguousCache plain(layout_, shape_, at::kCPU);
      pass({paged.get(), &plain}, 0, 11);
      for (std::int64_t slot = 11; slot < 40; ++slot) {
        pass({paged.get(), &plain}, slot, 1);
        expect_same_rows(*paged, plain, slot + 1);
      }
      const cache::CacheUse use = paged->use();
      EXPECT_GT(use.paged_out, 0U);
      EXPECT_GT(use.read_back, 0U);
    }
  }
}

TEST_F(PagedPasses, APromptMayComeInParts) {
  const auto paged = make("page=3,device=6,check=1");
  ContiguousCache plain(layout_, shape_, at::kCPU);
  pass({paged.get(), &plain}, 0, 11);
  pass({paged.get(), &plain}, 11, 9);
  pass({paged.get(), &plain}, 20, 1);
  expect_same_rows(*paged, plain, 21);
}

// Rows of pages on the device, of pages in host memory, and of the page that is written.
TEST_F(PagedPasses, WhatIsInjectedTakesThePlaceOfWhatWasMade) {
  const auto paged = make("page=3,device=4,check=1");
  ContiguousCache plain(layout_, shape_, at::kCPU);
  pass({paged.get(), &plain}, 0, 11);
  for (std::int64_t row = 0; row < 2; ++row) {
    const std::int64_t padding = shape_.padding(row);
    const LayerKv rows{at::randn({2, 11 - padding, 8}), at::randn({2, 11 - padding, 6})};
    for (KvCache* each : std::initializer_list<KvCache*>{paged.get(), &plain}) {
      each->write({0, row, {padding, 11 - padding}}, rows);
    }
  }
  for (std::int64_t slot = 11; slot < 30; ++slot) {
    pass({paged.get(), &plain}, slot, 1);
    const at::Tensor deltas = at::randn({2, layout_.row_stride_bytes() / 4}).view(at::kByte);
    for (KvCache* each : std::initializer_list<KvCache*>{paged.get(), &plain}) {
      each->write_slot(slot, deltas, layout_, {});
    }
    expect_same_rows(*paged, plain, slot + 1);
  }
}

// Every whole page goes to host memory once; what a step lacks comes back.
TEST_F(PagedPasses, LosingAFrameMovesNoBytes) {
  const auto paged = make("page=4,device=6");
  pass({paged.get()}, 0, 11);
  for (std::int64_t slot = 11; slot < 40; ++slot) pass({paged.get()}, slot, 1);
  paged->begin({39, 1});
  const std::uint64_t page_bytes = 4 * layout_.geometry().position_bytes() / 2;
  const cache::CacheUse use = paged->use();
  // Whole pages of 39 and of 34 positions, of both layers. A prompt of 11 has three pages, all of
  // which fit; of another that would not, rows go to host memory as they are.
  EXPECT_EQ(use.moved_bytes, (2 * (9 + 8) + use.read_back) * page_bytes);
  EXPECT_GT(use.read_back, 100U);
  const std::uint64_t position = layout_.geometry().position_bytes();
  const std::uint64_t frames = 2 * 3 * 4;  // rows, pages, positions
  const std::uint64_t pages = 2 * 10 * 4;
  EXPECT_EQ(use.places,
            (std::vector<cache::PlaceBytes>{{"cpu", frames * position, frames * position},
                                            {"host", pages * position, pages * position}}));
}

TEST_F(PagedPasses, AWindowFetchesItsPagesAlone) {
  // Frames for the window of 7, at most four pages of 3: the second layer never fetches any.
  const auto paged = make("page=3,device=8");
  pass({paged.get()}, 0, 11);
  for (std::int64_t slot = 11; slot < 40; ++slot) pass({paged.get()}, slot, 1);
  const RowLayout second{format::Geometry({{DType::kFloat32, DType::kFloat32, 2, 8, 6}})};
  const std::uint64_t before = paged->use().read_back;
  // Layer 0 alone: what one step of it reads back is all that a step of both reads back.
  pass({paged.get()}, 39, 1);
  const std::uint64_t pages_of_layer_0 = (14 - 4) + (12 - 4);
  EXPECT_LE(paged->use().read_back - before, pages_of_layer_0);
}

TEST_F(PagedPasses, AChecksumNamesThePageThatCameBackWrong) {
  const cache::PagedSettings settings = cache::paged_settings(paged("page=3,device=4,check=1"));
  FragilePages format(make_page_format({}, layout_, shape_, 6, at::kCPU));
  PageStore store(settings, {2, 14}, format, 2, 2, at::kCPU);
  const std::vector<bool> kept(14, false);
  const LayerKv rows{at::randn({2, 3, 8}), at::randn({2, 3, 6})};
  store.fetch({1, 0, 0}, kept, 0);
  store.write(1, 0, {0, 3}, rows);
  store.save({1, 0, 0});
  store.fetch({1, 0, 1}, kept, 1);
  store.write(1, 0, {3, 3}, rows);
  store.save({1, 0, 1});
  store.fetch({1, 0, 2}, kept, 2);  // page 0 is out
  EXPECT_EQ(store.frame_of({1, 0, 0}), -1);
  format.damage(1, 0);
  const Error error = error_of([&] { store.fetch({1, 0, 0}, kept, 17); });
  EXPECT_EQ(error.code(), ErrorCode::kInternal);
  EXPECT_THAT(error.what(),
              testing::HasSubstr("page 0 of layer 1, input 0 of the batch, came back"));
  EXPECT_THAT(error.what(), testing::HasSubstr("in step 17"));
}

// Four pages that are not damaged, of which two have a frame: page 0 is the better one of those
// that do not.
TEST_F(PagedPasses, WhatComesAheadIsThereWhenItsLayerIsUsedAgain) {
  const cache::PagedSettings settings =
      cache::paged_settings(paged("page=3,device=4,check=1,residency=predictive,prefetch=1"));
  FragilePages format(make_page_format({}, layout_, shape_, 2 * 3, at::kCPU));
  for (const bool damage : {false, true}) {
    PageStore store(settings, {2, 14}, format, 2, 2, at::kCPU);
    const std::vector<bool> kept(14, false);
    const LayerKv rows{at::randn({2, 12, 8}), at::randn({2, 12, 6})};
    for (std::int64_t page = 0; page < 4; ++page) {
      store.fetch({1, 0, page}, kept, page);
      store.write(1, 0, {3 * page, 3}, positions_of(rows, 3 * page, 3));
      store.save({1, 0, page});
    }
    EXPECT_EQ(store.frame_of({1, 0, 0}), -1);
    if (damage) format.damage(1, 0);
    const std::vector<cache::PageScore> step{
        {0, 0.5, false}, {1, 0.125, false}, {2, 0.25, true}, {3, 0.0625, true}};
    store.observe(1, 0, step);
    store.fetch_ahead(1, 0, kept, 17);
    // In the frame of page 3.
    EXPECT_GE(store.frame_of({1, 0, 0}), 0);
    EXPECT_GE(store.frame_of({1, 0, 2}), 0);
    EXPECT_EQ(store.frame_of({1, 0, 3}), -1);
    EXPECT_EQ(store.traffic().prefetched, 1U);
    EXPECT_EQ(store.read_back(), 0U);
    if (damage) {
      const Error error = error_of([&] { store.arrive(1); });
      EXPECT_EQ(error.code(), ErrorCode::kInternal);
      EXPECT_THAT(error.what(),
                  testing::HasSubstr("page 0 of layer 1, input 0 of the batch, came back"));
      EXPECT_THAT(error.what(), testing::HasSubstr("in step 17"));
      continue;
    }
    const auto expect_right = [&] {
      const LayerKv found = layout_.empty_rows(1, 12, at::kCPU);
      store.read(1, 0, {0, 12}, found);
      EXPECT_TRUE(found.k.equal(rows.k));
      EXPECT_TRUE(found.v.equal(rows.v));
    };
    expect_right();  // it may be on its way
    store.arrive(1);
    expect_right();
    const LayerKv frame = store.shown(1);
    const std::int64_t first = 3 * store.frame_of({1, 0, 0});
    EXPECT_TRUE(frame.k.select(0, 0).narrow(1, first, 3).equal(rows.k.narrow(1, 0, 3)));
  }
}

TEST_F(PagedPasses, AnEmulatedLinkTakesItsTimeAndSaysSo) {
  const auto fast = make("page=4,device=6");
  EXPECT_FALSE(fast->use().emulated_link);
  const auto slow = make("page=4,device=6,link=0.001");
  EXPECT_TRUE(slow->use().emulated_link);
  const auto started = std::chrono::steady_clock::now();
  pass({slow.get()}, 0, 11);
  for (std::int64_t slot = 11; slot < 16; ++slot) pass({slow.get()}, slot, 1);
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - started;
  EXPECT_GE(elapsed.count(), static_cast<double>(slow->use().moved_bytes) / 1e6);
}

// Under ThreadSanitizer this is the test that matters (tools/sanitize_engine.sh).
TEST_F(PagedPasses, OthersMayReadWhileItWorks) {
  for (const std::string spec :
       {"paged:page=3,device=4", "paged:page=3,device=4,codec=int8",
        "paged:page=3,device=6,select=quest,budget=3,sinks=0,recent=1,dense=1",
        "paged:page=3,device=12,check=1,residency=predictive,select=quest,budget=3,sinks=0,recent="
        "1,"
        "dense=0"}) {
    const auto paged = cache_maker(cache::CacheSpec::parse(spec))(layout_, shape_, at::kCPU);
    pass({paged.get()}, 0, 11);
    const LayerKv before = layout_.empty_rows(0, 11, at::kCPU);
    paged->read({0, 0, {0, 11}}, before);
    std::atomic<bool> done = false;
    std::thread reader([&] {
      while (!done) {
        const LayerKv rows = layout_.empty_rows(0, 11, at::kCPU);
        paged->read({0, 0, {0, 11}}, rows);
        EXPECT_TRUE(rows.k.equal(before.k));
        EXPECT_GT(paged->use().physical_bytes, 0U);
      }
    });
    for (std::int64_t slot = 11; slot < 40; ++slot) pass({paged.get()}, slot, 1);
    done = true;
    reader.join();
    EXPECT_EQ(paged->use().pages.prefetched > 0, spec.find("predictive") != std::string::npos);
  }
}

TEST(PagedRun, RoomForEverythingIsContiguousToTheBit) {
  TorchModel model = toy_model(DType::kBFloat16);
  const Rows plain = record(model, 20);
  const Rows recorded = record(model, 20, paged("page=4"));
  for (std::size_t row = 0; row < 2; ++row) {
    EXPECT_EQ(recorded[row]->deltas, plain[row]->deltas);
    for (std::size_t step = 0; step < 19; ++step) {
      EXPECT_EQ(recorded[row]->steps[step].logits_digest, plain[row]->steps[step].logits_digest);
    }
  }
}

TEST(PagedRun, LittleRoomGivesTheSameTokens) {
  TorchModel model = toy_model();
  const Rows plain = record(model, 24);
  const cache::CacheSpec spec = paged("page=2,device=6,check=1");
  const Rows recorded = record(model, 24, spec);
  for (std::size_t row = 0; row < 2; ++row) {
    for (std::size_t step = 0; step < 23; ++step) {
      EXPECT_EQ(recorded[row]->steps[step].token, plain[row]->steps[step].token);
    }
    for (std::int64_t layer = 0; layer < 2; ++layer) {
      EXPECT_TRUE(at::allclose(told_state(*recorded[row], layer, true),
                               told_state(*plain[row], layer, true), 1e-4, 1e-5));
    }
  }
  for (const ReplayMode mode : {ReplayMode::kInject, ReplayMode::kForced, ReplayMode::kFree}) {
    const Replayed replayed = run(model, recorded, replay_options(mode, spec, false));
    EXPECT_GT(replayed.result.cache_use.read_back, 0U);
    for (std::size_t row = 0; row < 2; ++row) {
      EXPECT_EQ(replayed.rows[row]->deltas, recorded[row]->deltas);
    }
  }
}

TEST(PagedRun, InParallelStepsSeeTheSame) {
  TorchModel model = toy_model();
  const Rows recorded = record(model, 24);
  const cache::CacheSpec spec = paged("page=2,device=6");
  for (const ReplayMode mode : {ReplayMode::kInject, ReplayMode::kForced}) {
    const Replayed steps = run(model, recorded, replay_options(mode, spec, false));
    const Replayed at_once = run(model, recorded, replay_options(mode, spec, true));
    for (std::size_t row = 0; row < 2; ++row) {
      for (std::int64_t layer = 0; layer < 2; ++layer) {
        EXPECT_TRUE(at::allclose(told_state(*at_once.rows[row], layer, true),
                                 told_state(*steps.rows[row], layer, true), 1e-4, 1e-5));
      }
    }
  }
}

}  // namespace
}  // namespace kvtool::engine
