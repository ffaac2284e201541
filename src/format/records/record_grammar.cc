#include "record_grammar.h"

#include <utility>

#include "format/layout.h"

namespace kvtool::format {
namespace {

// Of several records, one behind the other, whose indexes count from 0.
bool is_run(RecordType type) {
  return type == RecordType::kPrefill || type == RecordType::kStep || type == RecordType::kFinal;
}

}  // namespace

// The numbers of the ordered types are their order.
bool is_ordered(RecordType type) { return type > kNobodyKnows && type <= RecordType::kTrailer; }

RecordGrammar::RecordGrammar(const RecordingHeader& header)
    : layers_(header.geometry.num_layers()),
      final_only_(header.save_mode == SaveMode::kFinalOnly) {}

RecordGrammar::Fit RecordGrammar::fit(const RecordHeader& record) const {
  if (record.sequence != sequence_) return Fit::kWrongSequence;
  return in_order(record) ? Fit::kFits : Fit::kOutOfOrder;
}

bool RecordGrammar::exists(const RecordHeader& record) const {
  switch (record.type) {
    case RecordType::kPrefill: return !final_only_ && record.index < layers_;
    case RecordType::kStep: return record.index < kMaxSteps;
    case RecordType::kFinal: return final_only_ && record.index < layers_;
    default: return record.index == 0;
  }
}

// What may stand behind previous_ordered_, apart from types without an order.
RecordGrammar::Successors RecordGrammar::successors() const {
  if (!previous_ordered_) return {{RecordType::kMeta}, {}};
  const Place end_of_steps{final_only_ ? RecordType::kFinal : RecordType::kSummary};
  const Place next{previous_ordered_->type, previous_ordered_->index + 1};
  const bool last_layer = next.index >= layers_;
  switch (previous_ordered_->type) {
    case RecordType::kMeta: return {{RecordType::kPrompt}, {}};
    case RecordType::kPrompt:
      return {{final_only_ ? RecordType::kPrefillEnd : RecordType::kPrefill}, {}};
    case RecordType::kPrefill: return {last_layer ? Place{RecordType::kPrefillEnd} : next, {}};
    case RecordType::kPrefillEnd: return {{RecordType::kStep}, end_of_steps};
    case RecordType::kStep: return {next, end_of_steps};
    case RecordType::kFinal: return {last_layer ? Place{RecordType::kSummary} : next, {}};
    case RecordType::kSummary: return {{RecordType::kTrailer}, {}};
    default: return {};
  }
}

bool RecordGrammar::in_order(const RecordHeader& record) const {
  if (!is_ordered(record.type)) {
    return unsure_ || (previous_ordered_ && previous_ordered_->type >= RecordType::kPrompt);
  }
  if (!exists(record)) return false;
  if (unsure_) {
    return !previous_ordered_ || std::pair(record.type, record.index) >
                                     std::pair(previous_ordered_->type, previous_ordered_->index);
  }
  const auto is = [&](const Place& place) {
    return record.type == place.type && record.index == place.index;
  };
  const auto [next, end_of_run] = successors();
  if (!is(next) && !is(end_of_run)) return false;
  const bool inside_run = is_run(record.type) && record.index > 0;
  return !inside_run || previous_->type == record.type;
}

void RecordGrammar::take(const RecordHeader& record, std::uint64_t count) {
  previous_ = record;
  previous_->index += count - 1;
  if (is_ordered(record.type)) {
    previous_ordered_ = previous_;
    unsure_ = false;
  }
  sequence_ = std::uint64_t{record.sequence} + count;
}

void RecordGrammar::lose_up_to(std::uint64_t sequence) {
  unsure_ = true;
  sequence_ = sequence;
}

RecordGrammar::Place RecordGrammar::expected() const {
  if (previous_ && !is_ordered(previous_->type)) return {};
  const Place next = successors().next;
  // CHECKSUMS may stand before it.
  return next.type == RecordType::kSummary ? Place{} : next;
}

const char* RecordGrammar::rule(RecordType type) {
  switch (type) {
    case RecordType::kMeta: return "META is the first record";
    case RecordType::kPrompt: return "PROMPT is the second record";
    case RecordType::kPrefill: return "PREFILL records follow the prompt, layer by layer";
    case RecordType::kPrefillEnd: return "PREFILL_END follows the prompt's last layer";
    case RecordType::kStep: return "STEP records follow the prefill, one after the other";
    case RecordType::kFinal: return "FINAL records follow the steps, layer by layer";
    case RecordType::kSummary: return "SUMMARY follows the last step or final layer";
    case RecordType::kTrailer: return "TRAILER follows SUMMARY";
    case RecordType::kChecksums: break;
  }
  return "META and PROMPT are the first records";
}

}  // namespace kvtool::format
