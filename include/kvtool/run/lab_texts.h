// Texts that a lab reads through each cache, token by token: perplexity, and facts that lie in a
// text (docs/lab.md).
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace kvtool::run {

enum class LabRole : std::uint8_t;

// Facts of a text that is asked for them, at 0, 12.5, ... 100 % of it.
inline constexpr std::uint64_t kNeedles = 9;

struct LabTextRequest {
  bool perplexity = false;  // LabResult::perplexities
  bool needles = false;     // LabResult::needles
  // What is read. Empty: the recorded prompts for the perplexity, built-in sentences between
  // needles.
  std::filesystem::path text;
  std::vector<std::uint64_t> contexts;  // tokens of a window; empty: kLabContext
  // Tokens of a window that are read in one pass and not scored. Empty: half of the window.
  std::optional<std::uint64_t> prefix;
  std::uint64_t windows = 8;       // at most, from the beginning of the text on
  std::uint64_t needle_texts = 4;  // of kNeedles each

  [[nodiscard]] bool reads() const { return perplexity || needles; }
};
inline constexpr std::uint64_t kLabContext = 1024;

// One cache that read the texts.
struct LabReading {
  LabRole role{};
  std::string name;                  // as LabRow
  std::string spec;                  // that ran
  std::string note;                  // of the noise: what differs
  std::string missing;               // not empty: it did not run, and why
  bool acted = false;                // rows kept otherwise, keys hidden or pages moved
  std::optional<double> seen_share;  // of the keys, as LabApplied

  // Its figures stand beside those of full.
  [[nodiscard]] bool counts() const { return missing.empty(); }
};

// Over all scored tokens of all windows. The increase is exp(mean d) - 1 of the differences d of
// each token's negative log likelihood, this row less full; its interval is 1.96 standard errors of
// mean d, tokens taken as independent.
struct PerplexityRow : LabReading {
  std::uint64_t tokens = 0;
  std::uint64_t nonfinite = 0;  // tokens without a probability; then there is no perplexity
  std::optional<double> perplexity;
  std::optional<double> increase, increase_low, increase_high;  // 0.05 is 5 %
};

struct LabPerplexity {
  std::string text;           // what was read: "book.txt", "the recorded prompts"
  std::uint64_t context = 0;  // tokens of the longest window
  std::uint64_t windows = 0;
  std::uint64_t prompt = 0;  // tokens of the windows that were read first and not scored, together
  std::uint64_t tokens = 0;  // scored
  std::vector<PerplexityRow> rows;
};

struct NeedleDepth {
  double depth = 0.0;  // of the text: 0 begin, 1 end
  std::uint64_t asked = 0;
  std::uint64_t recalled = 0;
};

// A needle is recalled where each token of its answer is the best one.
struct NeedleRow : LabReading {
  std::uint64_t asked = 0;
  std::uint64_t recalled = 0;
  // recalled / asked, and its two-sided 95 % Clopper-Pearson interval.
  std::optional<double> recall, recall_low, recall_high;
  // Of those that full recalls.
  std::uint64_t full_recalls = 0;
  std::uint64_t kept = 0;
  std::optional<double> log_probability;  // of a whole answer, mean; NaN ones left out
  std::vector<NeedleDepth> depths;
};

struct LabNeedles {
  std::string text;           // between the needles
  std::uint64_t context = 0;  // tokens of a text, its questions and answers included
  std::uint64_t texts = 0;
  std::string example;  // the first needle
  std::vector<NeedleRow> rows;
};

}  // namespace kvtool::run
