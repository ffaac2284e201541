// The cache policies that there are, without torch: what help texts, documentation, the
// memory plan and tests iterate. The engine has the maker of each beside its code
// (src/engine/cache/policies.cc) and does not compile where the two lists differ.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

#include "kvtool/cache/residency.h"

namespace kvtool::format {
class Geometry;
}

namespace kvtool::cache {

class CacheSpec;
struct BatchExtent;
struct CachePlan;

enum class OptionKind : std::uint8_t {
  kCount,   // "16"
  kBytes,   // "256M": K, M, G and T are powers of 1024
  kShare,   // "80%", 0 to 100
  kPart,    // "16" or "25%": a number of something, or a share of all that there are
  kWord,    // one of `words`
  kRoom,    // "64" pages, "256M" bytes or "25%"
  kScale,   // one of `words`, or a number above 0
  kLayers,  // "all", or layers such as "2-13+16" (layer_list.h)
};

// Of another option, earlier in the same table.
struct OptionValue {
  std::string_view option;  // empty: no condition
  std::string_view word;
  bool differs = false;  // every value but `word`
};

// One `key=value` that a policy takes.
struct OptionInfo {
  std::string_view name;
  OptionKind kind = OptionKind::kCount;
  std::string_view summary;
  std::string_view fallback;  // the value where none is given; empty: the option is then left out
  std::span<const std::string_view> words = {};
  std::uint64_t least = 0;  // of a number
  OptionValue where = {};   // it is there only where that option has that value
  // False of an option that came after recordings were made: its fallback is left out of the name
  // of a cache, so that theirs stays the same.
  bool names_fallback = true;
};

// Options that several policies share.
inline constexpr std::array<std::string_view, 6> kStoreWords = {"none",  "int8",  "fp8",
                                                                "kivi8", "kivi4", "kivi2"};
// store_of() says which policy a word is.
inline constexpr OptionInfo kStoreOption{
    "codec", OptionKind::kWord,
    "how rows are kept: as the model made them, or as int8, fp8 or kivi of that many bits", "none",
    kStoreWords};

inline constexpr std::array<std::string_view, 2> kPositionWords = {"original", "cache"};
inline constexpr std::array kWindowOptions = {
    OptionInfo{"sinks", OptionKind::kCount, "first positions of an input that are always seen",
               "4"},
    OptionInfo{"recent",
               OptionKind::kCount,
               "last positions that are seen, the query's own included",
               "1020",
               {},
               1},
    OptionInfo{
        "positions",
        OptionKind::kWord,
        "which ones keys have: original, or cache, as if nothing were between sinks and window",
        "original",
        kPositionWords,
        0,
        {},
        false},
    kStoreOption,
};

// Of the policy "paged": which policy chooses what a step sees.
inline constexpr std::string_view kSelectName = "select";

// The same where the policy itself selects, and where its option says which one does.
constexpr std::array<OptionInfo, 4> selection_options(OptionValue where) {
  return {
      OptionInfo{"budget",
                 OptionKind::kPart,
                 "pages that are seen, or their share of those of the input",
                 "64",
                 {},
                 1,
                 where},
      OptionInfo{"sinks",
                 OptionKind::kCount,
                 "first pages of an input that are always seen",
                 "1",
                 {},
                 0,
                 where},
      OptionInfo{"recent",
                 OptionKind::kCount,
                 "last pages that are always seen, the query's own included",
                 "2",
                 {},
                 1,
                 where},
      OptionInfo{
          "dense", OptionKind::kCount, "first layers that see everything", "2", {}, 0, where},
  };
}
inline constexpr std::array kSelecting = selection_options({});

inline constexpr std::array kPageOptions = {
    OptionInfo{"page", OptionKind::kCount, "positions of a page", "16", {}, 1},
    kSelecting[0],
    kSelecting[1],
    kSelecting[2],
    kSelecting[3],
    kStoreOption,
};
// How a policy keeps the row of one K/V head and position.
struct RowStorage {
  std::uint32_t element_bits = 0;  // 0: as the model made it
  std::uint32_t scale_bytes = 0;   // beside the elements
  std::uint32_t head_bytes = 0;    // once for all positions of the K/V head, of K and of V
};

struct PolicyInfo {
  std::string_view name;
  std::string_view summary;
  RowStorage storage;
  std::span<const OptionInfo> options = {};
  // What it takes, where `storage` does not say it: as plan_cache().
  CachePlan (*plan)(const format::Geometry& geometry, const BatchExtent& batch,
                    const CacheSpec& spec) = nullptr;
  // Error kUsage for values that do not go together, or that no cache can have.
  void (*check)(const CacheSpec& spec) = nullptr;
  // Float32 numbers that it keeps of a page, for each K/V head and channel of K.
  std::uint32_t page_numbers = 0;
};

inline constexpr std::array<std::string_view, 2> kFp8Types = {"e4m3", "e5m2"};
inline constexpr std::array<std::string_view, 2> kFp8Scopes = {"head", "tensor"};
inline constexpr std::array<std::string_view, 1> kMeasuredScale = {"prefill"};
inline constexpr std::array kFp8Options = {
    OptionInfo{"type", OptionKind::kWord, "e4m3 or e5m2", "e4m3", kFp8Types},
    OptionInfo{"per", OptionKind::kWord, "what has a scale: head or tensor", "head", kFp8Scopes},
    OptionInfo{"scale", OptionKind::kScale,
               "a number, or prefill: the power of two that the prompt needs", "prefill",
               kMeasuredScale},
};

inline constexpr std::array<std::string_view, 4> kGroupBits = {"2", "4", "8", "none"};
inline constexpr std::array kKiviOptions = {
    OptionInfo{"k", OptionKind::kWord,
               "bits of a number of K: 2, 4 or 8, or none: as the model made it", "4", kGroupBits},
    OptionInfo{"v", OptionKind::kWord, "bits of a number of V", "4", kGroupBits},
    OptionInfo{"group", OptionKind::kCount,
               "positions that share a scale of K, and channels one of V", "32"},
    OptionInfo{"residual", OptionKind::kCount, "last positions that stay as the model made them",
               "128"},
    OptionInfo{"sinks", OptionKind::kCount, "first positions that do", "0"},
    OptionInfo{"layers",
               OptionKind::kLayers,
               "which layers are put in groups: all, or such as 2-13+16",
               "all",
               {},
               0,
               {},
               false},
};
CachePlan plan_kivi(const format::Geometry& geometry, const BatchExtent& batch,
                    const CacheSpec& spec);
void check_kivi(const CacheSpec& spec);

inline constexpr std::array<std::string_view, 7> kSelectWords = {
    "none", "quest", "mean-key", "mean-deviation", "mass", "random", "window"};
inline constexpr std::array kPagedSelecting = selection_options({kSelectName, "none", true});
inline constexpr std::array<std::string_view, 1> kUnpaced = {"none"};
inline constexpr std::array<std::string_view, 2> kNoOrYes = {"0", "1"};
inline constexpr OptionValue kPredictive{"residency", "predictive"};
inline constexpr std::array kPagedOptions = {
    OptionInfo{"page", OptionKind::kCount, "positions of a page", "16"},
    OptionInfo{"device", OptionKind::kRoom,
               "what a layer may have on the device: pages, bytes (256M) or a share", "100%"},
    OptionInfo{"residency", OptionKind::kWord,
               "which page makes room: lru, clock, lru2 or predictive", "lru", kResidencyWords},
    OptionInfo{"rank", OptionKind::kWord,
               "what predicts the use of a page: mass, frequency or confidence", "confidence",
               kPageRankWords, 0, kPredictive},
    OptionInfo{"prefetch",
               OptionKind::kCount,
               "pages of a layer and input that are fetched ahead of a step, at most",
               "4",
               {},
               0,
               kPredictive},
    OptionInfo{"precision",
               OptionKind::kShare,
               "share of the pages fetched ahead that the step should use",
               "50%",
               {},
               0,
               kPredictive},
    OptionInfo{"link", OptionKind::kScale, "GB/s between device and host, emulated on a CPU",
               "none", kUnpaced},
    OptionInfo{"check", OptionKind::kWord, "1: a checksum of each page over every round trip", "0",
               kNoOrYes},
    kStoreOption,
    OptionInfo{kSelectName, OptionKind::kWord,
               "the policy that chooses the pages that a step sees, or none", "none", kSelectWords},
    kPagedSelecting[0],
    kPagedSelecting[1],
    kPagedSelecting[2],
    kPagedSelecting[3],
};
CachePlan plan_paged(const format::Geometry& geometry, const BatchExtent& batch,
                     const CacheSpec& spec);
void check_paged(const CacheSpec& spec);

inline constexpr std::array kPolicies = {
    PolicyInfo{"contiguous", "rows as the model made them, one buffer a layer", {}},
    PolicyInfo{"int8", "rows as 8-bit integers, one scale per position, K/V head, K and V", {8, 4}},
    PolicyInfo{"fp8",
               "rows as 8-bit floating point, one scale per K/V head, or of all heads together",
               {8, 0, 4},
               kFp8Options},
    PolicyInfo{"kivi",
               "old rows in groups of 2, 4 or 8 bits, K by channel and V by position; recent ones "
               "as the model made them",
               {},
               kKiviOptions,
               plan_kivi,
               check_kivi},
    PolicyInfo{"paged",
               "pages of positions, as many as there is room for on the device, the others in host "
               "memory",
               {},
               kPagedOptions,
               plan_paged,
               check_paged},
    PolicyInfo{
        "window", "a query sees the first and the last positions of its input", {}, kWindowOptions},
    PolicyInfo{"quest",
               "a step sees the pages whose keys could have the largest product with it",
               {},
               kPageOptions,
               nullptr,
               nullptr,
               2},
    PolicyInfo{"mean-key",
               "a step sees the pages whose mean key has the largest product with it",
               {},
               kPageOptions,
               nullptr,
               nullptr,
               1},
    PolicyInfo{"mean-deviation",
               "a step sees the pages with the largest product by mean and deviation of their keys",
               {},
               kPageOptions,
               nullptr,
               nullptr,
               2},
    PolicyInfo{
        "mass",
        "a step sees the pages that attention gives most to, which a real system cannot know",
        {},
        kPageOptions},
    PolicyInfo{"random", "a step sees pages at random: the control", {}, kPageOptions},
};

[[nodiscard]] constexpr std::span<const PolicyInfo> policies() { return kPolicies; }

}  // namespace kvtool::cache
