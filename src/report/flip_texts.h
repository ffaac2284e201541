// Texts of the tokens that a summary lists: a summary holds ids, the inputs that
// came before it hold the bytes.
#pragma once

#include <map>
#include <string>
#include <tuple>

#include "kvtool/run/result.h"

namespace kvtool::report {

class FlipTexts {
 public:
  // Keeps the texts of the input's hard flips and of each mode's first divergence.
  void add(const run::InputResult& input);
  // Empty texts for a token that no input named.
  [[nodiscard]] const run::TokenText& find(const std::string& model_slug,
                                           const analysis::InputName& input,
                                           format::ReplayMode mode,
                                           std::uint64_t token_index) const;

 private:
  using Key =
      std::tuple<std::string, std::uint64_t, std::uint64_t, format::ReplayMode, std::uint64_t>;
  std::map<Key, run::TokenText> texts_;
};

}  // namespace kvtool::report
