#include "kvtool/cache/cache_spec.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>

#include "kvtool/base/error.h"
#include "kvtool/base/nearest.h"
#include "kvtool/cache/layer_list.h"

namespace kvtool::cache {
namespace {

struct Suffix {
  char letter;
  std::uint64_t bytes;
};
constexpr std::array kSuffixes = {Suffix{'T', std::uint64_t{1} << 40}, Suffix{'G', 1U << 30},
                                  Suffix{'M', 1U << 20}, Suffix{'K', 1U << 10}};
constexpr char kShareSign = '%';

template <typename Infos>
std::vector<std::string> names_of(const Infos& infos) {
  std::vector<std::string> names;
  for (const auto& info : infos) names.emplace_back(info.name);
  return names;
}

std::string listed(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

// Digits alone; nothing where they do not fit.
std::optional<std::uint64_t> parse_digits(std::string_view text) {
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

std::optional<std::uint64_t> parse_bytes(std::string_view text) {
  std::uint64_t unit = 1;
  for (const Suffix& suffix : kSuffixes) {
    if (text.empty() || text.back() != suffix.letter) continue;
    unit = suffix.bytes;
    text.remove_suffix(1);
    break;
  }
  const std::optional<std::uint64_t> number = parse_digits(text);
  if (!number || *number > std::numeric_limits<std::uint64_t>::max() / unit) return std::nullopt;
  return *number * unit;
}

// A finite number above 0.
std::optional<double> parse_scale(std::string_view text) {
  double number = 0.0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return std::isfinite(number) && number > 0.0 ? std::optional(number) : std::nullopt;
}

// The shortest that reads back as the same number.
std::string scale_text(double number) {
  std::array<char, 32> text{};
  const auto result = std::to_chars(text.data(), text.data() + text.size(), number);
  return {text.data(), result.ptr};
}

std::string bytes_text(std::uint64_t bytes) {
  for (const Suffix& suffix : kSuffixes) {
    if (bytes == 0 || bytes % suffix.bytes != 0) continue;
    return std::to_string(bytes / suffix.bytes) + suffix.letter;
  }
  return std::to_string(bytes);
}

// Digits alone are pages.
std::optional<Room> parse_room(std::string_view text) {
  const auto room = [](Room::Unit unit, std::optional<std::uint64_t> number) {
    return number ? std::optional(Room{.unit = unit, .number = *number}) : std::nullopt;
  };
  if (text.ends_with(kShareSign)) {
    const std::optional<Share> share = Share::parse(text);
    return share ? std::optional(Room{Room::Unit::kShare, 0, *share}) : std::nullopt;
  }
  if (const auto pages = parse_digits(text)) return room(Room::Unit::kPages, pages);
  return room(Room::Unit::kBytes, parse_bytes(text));
}

std::string room_text(const Room& room) {
  if (room.unit == Room::Unit::kBytes) return bytes_text(room.number);
  return room.unit == Room::Unit::kShare ? room.share.to_string() : std::to_string(room.number);
}

std::string_view expected(OptionKind kind) {
  switch (kind) {
    case OptionKind::kCount: return "a whole number";
    case OptionKind::kBytes: return "a number of bytes, such as 256M";
    case OptionKind::kShare: return "a share from 0% to 100%, such as 25% or 12.5%";
    case OptionKind::kRoom:
      return "a number of pages, of bytes with a suffix, such as 256M, or a share";
    case OptionKind::kPart:
      return "a whole number, or a share from 0% to 100%, such as 25% or 12.5%";
    case OptionKind::kWord: return "one of its words";
    case OptionKind::kScale: return "one of its words, or a number above 0";
    case OptionKind::kLayers: return "all, or layers from 0 on, such as 5 or 2-13+16";
  }
  return "another value";
}

}  // namespace

// Walks one text from left to right; what it refuses it refuses with the place.
class SpecParser {
 public:
  SpecParser(std::string_view text, std::span<const PolicyInfo> known)
      : text_(text), known_(known) {}

  CacheSpec parse() {
    const std::size_t colon = std::min(text_.find(':'), text_.size());
    const PolicyInfo& policy = find_policy(text_.substr(0, colon));
    spec_.policy_ = policy.name;
    spec_.settings_.clear();
    places_.clear();
    std::size_t at = colon;
    // The character at `at` is the colon or a comma.
    while (at < text_.size()) at = take_option(policy, at + 1);
    CacheSpec spec = in_order_of(policy);
    if (policy.check != nullptr) policy.check(spec);
    return spec;
  }

 private:
  [[noreturn]] void fail(std::size_t at, const std::string& why) const {
    throw_usage("cache '" + std::string(text_) + "', character " + std::to_string(at + 1) + ": " +
                why);
  }

  const PolicyInfo& find_policy(std::string_view name) const {
    for (const PolicyInfo& policy : known_) {
      if (policy.name == name) return policy;
    }
    const std::vector<std::string> names = names_of(known_);
    fail(0, "no cache policy is called '" + std::string(name) + "'" + suggestion(name, names) +
                " (there are " + listed(names) + ")");
  }

  const OptionInfo& find_option(const PolicyInfo& policy, std::string_view name,
                                std::size_t at) const {
    for (const OptionInfo& option : policy.options) {
      if (option.name == name) return option;
    }
    const std::string owner(policy.name);
    if (policy.options.empty()) fail(at, owner + " takes no options");
    const std::vector<std::string> names = names_of(policy.options);
    fail(at, owner + " has no option '" + std::string(name) + "'" + suggestion(name, names) +
                 " (there are " + listed(names) + ")");
  }

  // Takes the option that starts at `begin`; returns where it ends.
  std::size_t take_option(const PolicyInfo& policy, std::size_t begin) {
    const std::size_t end = std::min(text_.find(',', begin), text_.size());
    const std::string_view whole = text_.substr(begin, end - begin);
    const std::size_t equals = whole.find('=');
    const OptionInfo& option = find_option(policy, whole.substr(0, equals), begin);
    const std::string name(option.name);
    if (equals == std::string_view::npos) {
      fail(end, "'" + name + "' needs a value: " + name + "=...");
    }
    for (const CacheSpec::Setting& earlier : spec_.settings_) {
      if (earlier.name == name) fail(begin, "'" + name + "' is given twice");
    }
    take_value(option, whole.substr(equals + 1), begin + equals + 1);
    places_.push_back(begin);
    return end;
  }

  void take_value(const OptionInfo& option, std::string_view text, std::size_t at) {
    std::string name(option.name);
    if (option.kind == OptionKind::kScale) {
      if (const std::optional<double> scale = parse_scale(text)) {
        spec_.settings_.push_back({std::move(name), scale_text(*scale), 0});
        return;
      }
    }
    if (option.kind == OptionKind::kWord || option.kind == OptionKind::kScale) {
      if (std::find(option.words.begin(), option.words.end(), text) == option.words.end()) {
        const std::vector<std::string> words(option.words.begin(), option.words.end());
        fail(at, "'" + std::string(text) + "' is no value of '" + name + "'" +
                     suggestion(text, words) + " (there are " + listed(words) +
                     (option.kind == OptionKind::kScale ? ", and numbers above 0)" : ")"));
      }
      spec_.settings_.push_back({std::move(name), std::string(text), 0});
      return;
    }
    if (option.kind == OptionKind::kLayers) {
      if (const std::optional<LayerList> layers = LayerList::parse(text)) {
        spec_.settings_.push_back({std::move(name), layers->to_string(), 0});
        return;
      }
    }
    if (option.kind == OptionKind::kRoom) {
      if (const std::optional<Room> room = parse_room(text)) {
        spec_.settings_.push_back({std::move(name), room_text(*room), room->number});
        return;
      }
    }
    const OptionKind kind = kind_of(option, text);
    if (kind == OptionKind::kShare) {
      if (const std::optional<Share> share = Share::parse(text)) {
        if (share->is_none() && option.least > 0) fail(at, "'" + name + "' is above 0%");
        spec_.settings_.push_back({std::move(name), share->to_string(), 0});
        return;
      }
    }
    const bool is_number = kind == OptionKind::kCount || kind == OptionKind::kBytes;
    const std::optional<std::uint64_t> number = is_number ? parse_number(kind, text) : std::nullopt;
    if (!number) {
      fail(at, "'" + name + "' takes " + std::string(expected(option.kind)) + ", not '" +
                   std::string(text) + "'");
    }
    if (*number < option.least) {
      fail(at, "'" + name + "' is at least " + number_text(kind, option.least));
    }
    spec_.settings_.push_back({std::move(name), number_text(kind, *number), *number});
  }

  // A part is a share or a count, as it is written.
  static OptionKind kind_of(const OptionInfo& option, std::string_view text) {
    if (option.kind != OptionKind::kPart) return option.kind;
    return text.ends_with(kShareSign) ? OptionKind::kShare : OptionKind::kCount;
  }

  static std::optional<std::uint64_t> parse_number(OptionKind kind, std::string_view text) {
    return kind == OptionKind::kBytes ? parse_bytes(text) : parse_digits(text);
  }

  static std::string number_text(OptionKind kind, std::uint64_t number) {
    return kind == OptionKind::kBytes ? bytes_text(number) : std::to_string(number);
  }

  // Adds the fallbacks and sorts as the table does.
  CacheSpec in_order_of(const PolicyInfo& policy) {
    std::vector<CacheSpec::Setting> given = std::move(spec_.settings_);
    spec_.settings_.clear();
    for (const OptionInfo& option : policy.options) {
      const auto is_it = [&](const CacheSpec::Setting& one) { return one.name == option.name; };
      const auto found = std::find_if(given.begin(), given.end(), is_it);
      const bool is_given = found != given.end();
      if (!applies(option.where)) {
        if (is_given) refuse(option, places_[static_cast<std::size_t>(found - given.begin())]);
        continue;
      }
      if (is_given) {
        spec_.settings_.push_back(std::move(*found));
      } else if (!option.fallback.empty()) {
        take_value(option, option.fallback, text_.size());
      } else {
        continue;
      }
      CacheSpec::Setting& taken = spec_.settings_.back();
      taken.is_named = option.names_fallback || taken.text != option.fallback;
    }
    return std::move(spec_);
  }

  bool applies(const OptionValue& where) const {
    if (where.option.empty()) return true;
    return spec_.has(where.option) && (spec_.word(where.option) == where.word) != where.differs;
  }

  [[noreturn]] void refuse(const OptionInfo& option, std::size_t at) const {
    const OptionValue& where = option.where;
    const std::string value = std::string(where.option) + "=" + std::string(where.word);
    fail(at, "'" + std::string(option.name) + "' does nothing " +
                 (where.differs ? "with " + value + ": give another '" + std::string(where.option) +
                                      "', too, or leave it out"
                                : "without " + value));
  }

  std::string_view text_;
  std::span<const PolicyInfo> known_;
  CacheSpec spec_;
  std::vector<std::size_t> places_;  // of the given options, as they stand in spec_ at first
};

CacheSpec::CacheSpec() : policy_(kPolicies.front().name) {}

CacheSpec CacheSpec::parse(std::string_view text, std::span<const PolicyInfo> known) {
  return SpecParser(text, known).parse();
}

const CacheSpec::Setting* CacheSpec::find(std::string_view option) const {
  const auto found = std::ranges::find(settings_, option, &Setting::name);
  return found == settings_.end() ? nullptr : &*found;
}

const CacheSpec::Setting& CacheSpec::setting(std::string_view option) const {
  if (const Setting* found = find(option)) return *found;
  throw_misuse("the cache '" + to_string() + "' has no option '" + std::string(option) + "'");
}

bool CacheSpec::has(std::string_view option) const { return find(option) != nullptr; }

bool CacheSpec::is_share(std::string_view option) const {
  return setting(option).text.ends_with(kShareSign);
}

Share CacheSpec::share(std::string_view option) const {
  return Share::parse(setting(option).text).value_or(Share());
}

std::uint64_t CacheSpec::number(std::string_view option) const { return setting(option).number; }

Room CacheSpec::room(std::string_view option) const {
  return parse_room(setting(option).text).value_or(Room{});
}

std::optional<double> CacheSpec::scale(std::string_view option) const {
  return parse_scale(setting(option).text);
}

const std::string& CacheSpec::word(std::string_view option) const { return setting(option).text; }

std::string CacheSpec::to_string() const {
  std::string text = policy_;
  char separator = ':';
  for (const Setting& one : settings_) {
    if (!one.is_named) continue;
    text += separator + one.name + "=" + one.text;
    separator = ',';
  }
  return text;
}

}  // namespace kvtool::cache
