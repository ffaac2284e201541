#include "engine/cache/codecs/settled_part.h"

#include <utility>

namespace kvtool::engine {

SettledPart::SettledPart(std::optional<GroupCodec> codec, const RowLayout::Entry& entry,
                         std::int64_t rows, std::int64_t positions, at::Device device)
    : codec_(std::move(codec)) {
  if (codec_) {
    coded_ = codec_->allocate({rows, entry.heads}, positions, entry.dim, device);
  } else {
    whole_ = at::empty({rows, entry.heads, positions, entry.dim},
                       at::TensorOptions(entry.dtype).device(device));
  }
}

CodedGroups SettledPart::coded_of(std::int64_t row) const {
  return {coded_.codes.select(0, row), coded_.scales.select(0, row), coded_.zeros.select(0, row)};
}

void SettledPart::take_in(std::int64_t row, std::int64_t first, const at::Tensor& rows) const {
  if (codec_) {
    codec_->encode(rows, codec_->part(coded_of(row), first, rows.size(1)));
  } else {
    whole_.select(0, row).narrow(1, first, rows.size(1)).copy_(rows);
  }
}

void SettledPart::give_out(std::int64_t row, std::int64_t first, const at::Tensor& rows) const {
  if (codec_) {
    codec_->decode(coded_of(row), first, rows);
  } else {
    rows.copy_(whole_.select(0, row).narrow(1, first, rows.size(1)));
  }
}

at::Tensor SettledPart::round_trip(const at::Tensor& rows) const {
  return codec_ ? codec_->round_trip(rows) : rows;
}

}  // namespace kvtool::engine
