// The name of a cache: a policy and its options, as users write it and as it travels
// with everything that the cache made.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kvtool/cache/policies.h"
#include "kvtool/cache/share.h"

namespace kvtool::cache {

// How much of something, of an option of kind kRoom.
struct Room {
  enum class Unit : std::uint8_t { kPages, kBytes, kShare };
  Unit unit = Unit::kShare;
  std::uint64_t number = 0;  // of pages or bytes
  Share share = Share::all();

  friend bool operator==(const Room&, const Room&) = default;
};

// Plain data: copied freely, equal where the caches are. Grammar, without blanks:
//
//     spec   = policy [ ":" option { "," option } ]
//     option = name "=" value
//
// "int8", or with a policy that has options "paged:page=16,device=256M".
class CacheSpec {
 public:
  // contiguous
  CacheSpec();

  // Error kUsage for a policy, option or value that there is not; it names the position in
  // `text` and the nearest name. Options that are not given get their fallback.
  [[nodiscard]] static CacheSpec parse(std::string_view text,
                                       std::span<const PolicyInfo> known = policies());

  [[nodiscard]] const std::string& policy() const { return policy_; }
  // Whether the policy has the option and it has a value.
  [[nodiscard]] bool has(std::string_view option) const;
  // Of an option of kind kCount or kBytes, or kPart that is no share. Error kMisuse, as of those
  // below, where the policy has no such option or it has no value.
  [[nodiscard]] std::uint64_t number(std::string_view option) const;
  [[nodiscard]] Room room(std::string_view option) const;
  // Whether an option of kind kPart is a share.
  [[nodiscard]] bool is_share(std::string_view option) const;
  // Of an option that is one.
  [[nodiscard]] Share share(std::string_view option) const;
  // Of an option of kind kScale; nothing where it is a word.
  [[nodiscard]] std::optional<double> scale(std::string_view option) const;
  // Of an option of kind kWord, kScale or kLayers, as it is written.
  [[nodiscard]] const std::string& word(std::string_view option) const;

  // Canonical: every option that has a value, in the order of the table, bytes with the
  // largest suffix that is exact; but for fallbacks that a name leaves out (OptionInfo). parse() of
  // it gives an equal spec.
  [[nodiscard]] std::string to_string() const;

  friend bool operator==(const CacheSpec&, const CacheSpec&) = default;

 private:
  struct Setting {
    std::string name;
    std::string text;  // canonical
    std::uint64_t number = 0;
    bool is_named = true;

    friend bool operator==(const Setting&, const Setting&) = default;
  };
  friend class SpecParser;

  [[nodiscard]] const Setting* find(std::string_view option) const;
  [[nodiscard]] const Setting& setting(std::string_view option) const;

  std::string policy_;
  std::vector<Setting> settings_;
};

}  // namespace kvtool::cache
