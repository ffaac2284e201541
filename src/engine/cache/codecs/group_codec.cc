#include "engine/cache/codecs/group_codec.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <array>
#include <limits>
#include <vector>

#include "engine/cache/codecs/dequantize.h"

namespace kvtool::engine {
namespace {

// Leaves z + h room in a byte: see GroupCodec.
constexpr double kLargestCentre = 125.0;
constexpr double kLargestZero = 127.0;
constexpr double kInfinity = std::numeric_limits<double>::infinity();
// Positions that a thread takes at least.
constexpr std::int64_t kGrain = 64;

at::Tensor rounded_up_to_bfloat16(const at::Tensor& scales) {
  const at::Tensor nearest = scales.to(at::kBFloat16);
  const at::Tensor below = nearest.to(at::kFloat).lt(scales);
  return nearest.view(at::kShort).add(below.to(at::kShort)).view(at::kBFloat16);
}

// Of one position, channel by channel, in float32: scales and zeros, and room for its numbers.
struct PositionScales {
  std::vector<float> scales;
  std::vector<float> zeros;
  std::vector<float> wide;
};

// What a thread reads of CodedGroups of one row, and where it writes.
struct DecodeTask {
  GroupAxis axis;
  std::int64_t bits;
  std::int64_t group;
  const std::uint8_t* codes;
  const c10::BFloat16* scales;
  const std::int8_t* zeros;
  std::int64_t code_stride;   // from head to head
  std::int64_t scale_stride;  // likewise
  std::int64_t code_bytes;    // of a position
  std::int64_t scale_width;   // of a group of positions, or of a position
  std::int64_t first;         // position
  std::int64_t positions;
  std::int64_t dim;
  char* out;
  std::int64_t out_head_stride;  // bytes
  std::int64_t out_row_stride;
  RowType type;

  void load(std::int64_t head, std::int64_t position, PositionScales& target) const {
    const std::int64_t row = axis == GroupAxis::kPositions ? position / group : position;
    const std::int64_t base = head * scale_stride + row * scale_width;
    const std::int64_t run = axis == GroupAxis::kPositions ? 1 : group;  // channels of one scale
    const auto offset = static_cast<float>(1 << (bits - 1));
    for (std::int64_t index = 0; index < scale_width; ++index) {
      const std::int64_t channel = index * run;
      const std::int64_t count = std::min(run, dim - channel);
      std::fill_n(target.scales.begin() + channel, count, static_cast<float>(scales[base + index]));
      std::fill_n(target.zeros.begin() + channel, count,
                  static_cast<float>(zeros[base + index]) - offset);
    }
  }

  // Heads times positions, [begin, end).
  void run(std::int64_t begin, std::int64_t end) const {
    const auto size = static_cast<std::size_t>(dim);
    PositionScales now{std::vector<float>(size), std::vector<float>(size),
                       std::vector<float>(size)};
    std::int64_t loaded = -1;
    for (std::int64_t index = begin; index < end; ++index) {
      const std::int64_t head = index / positions;
      const std::int64_t position = first + index % positions;
      const std::int64_t wanted =
          axis == GroupAxis::kPositions ? head << 40 | position / group : -2 - index;
      if (wanted != loaded) load(head, position, now);
      loaded = wanted;
      decode_position(head, position, now);
    }
  }

  void decode_position(std::int64_t head, std::int64_t position, PositionScales& now) const {
    dequantize(codes + head * code_stride + position * code_bytes, bits, now.zeros.data(),
               now.scales.data(), dim, type, now.wide.data(),
               out + head * out_head_stride + (position - first) * out_row_stride);
  }
};

}  // namespace

std::uint64_t CodedGroups::nbytes() const {
  return codes.nbytes() + scales.nbytes() + zeros.nbytes();
}

CodedGroups GroupCodec::allocate(std::vector<std::int64_t> leading, std::int64_t positions,
                                 std::int64_t dim, at::Device device) const {
  const auto sized = [&](std::int64_t rows, std::int64_t width, at::ScalarType dtype) {
    std::vector<std::int64_t> sizes = leading;
    sizes.push_back(rows);
    sizes.push_back(width);
    return at::zeros(sizes, at::TensorOptions(dtype).device(device));
  };
  const bool by_positions = axis_ == GroupAxis::kPositions;
  const std::int64_t rows = by_positions ? positions / group_ : positions;
  const std::int64_t width = by_positions ? dim : (dim + group_ - 1) / group_;
  return {sized(positions, code_bytes(dim), at::kByte), sized(rows, width, at::kBFloat16),
          sized(rows, width, at::kChar)};
}

CodedGroups GroupCodec::part(const CodedGroups& coded, std::int64_t first,
                             std::int64_t count) const {
  const std::int64_t unit = axis_ == GroupAxis::kPositions ? group_ : 1;
  return {coded.codes.narrow(1, first, count), coded.scales.narrow(1, first / unit, count / unit),
          coded.zeros.narrow(1, first / unit, count / unit)};
}

// [heads, positions, dim] -> the numbers of a group in a dimension of their own.
at::Tensor GroupCodec::grouped(const at::Tensor& rows, double fill) const {
  if (axis_ == GroupAxis::kPositions) return rows.unflatten(1, {rows.size(1) / group_, group_});
  const std::int64_t missing = (group_ - rows.size(2) % group_) % group_;
  return at::constant_pad_nd(rows, {0, missing}, fill).unflatten(2, {-1, group_});
}

void GroupCodec::encode(const at::Tensor& rows, const CodedGroups& coded) const {
  const at::Tensor exact = rows.to(at::kFloat);
  const std::int64_t within = axis_ == GroupAxis::kPositions ? 2 : 3;
  const at::Tensor least = grouped(exact, kInfinity).amin(within);
  const at::Tensor greatest = grouped(exact, -kInfinity).amax(within);
  const auto levels = static_cast<double>((1 << bits_) - 1);
  const auto half = static_cast<double>(1 << (bits_ - 1));
  const at::Tensor centre = least.add(greatest).abs_().div_(2 * kLargestCentre);
  const at::Tensor scales =
      rounded_up_to_bfloat16(at::maximum(greatest.sub(least).div_(levels), centre));
  const at::Tensor wide = scales.to(at::kFloat);
  const at::Tensor zeros =
      least.div(wide).round_().nan_to_num_(0.0).clamp_(-kLargestZero - half, kLargestZero - half);
  const auto of_numbers = [&](const at::Tensor& of_groups) {
    if (axis_ == GroupAxis::kPositions) return of_groups.repeat_interleave(group_, 1);
    return of_groups.repeat_interleave(group_, 2).narrow(2, 0, rows.size(2));
  };
  const at::Tensor integers = exact.div(of_numbers(wide))
                                  .round_()
                                  .nan_to_num_(0.0)
                                  .sub_(of_numbers(zeros))
                                  .clamp_(0.0, levels)
                                  .to(at::kByte);
  const std::int64_t bytes = code_bytes(rows.size(2));
  const std::int64_t parts = 8 / bits_;
  const at::Tensor padded =
      at::constant_pad_nd(integers, {0, parts * bytes - rows.size(2)}).unflatten(2, {parts, bytes});
  at::Tensor packed = padded.select(2, 0).clone();
  for (std::int64_t part = 1; part < parts; ++part) {
    packed.bitwise_or_(padded.select(2, part).bitwise_left_shift(part * bits_));
  }
  coded.codes.copy_(packed);
  coded.scales.copy_(scales);
  coded.zeros.copy_(zeros.add(half));
}

void GroupCodec::decode(const CodedGroups& coded, std::int64_t first,
                        const at::Tensor& rows) const {
  const std::int64_t positions = rows.size(1);
  const std::int64_t dim = rows.size(2);
  if (positions == 0) return;
  if (rows.is_cpu() && rows.stride(2) == 1) {
    const DecodeTask task{.axis = axis_,
                          .bits = bits_,
                          .group = group_,
                          .codes = coded.codes.const_data_ptr<std::uint8_t>(),
                          .scales = coded.scales.const_data_ptr<c10::BFloat16>(),
                          .zeros = coded.zeros.const_data_ptr<std::int8_t>(),
                          .code_stride = coded.codes.stride(0),
                          .scale_stride = coded.scales.stride(0),
                          .code_bytes = code_bytes(dim),
                          .scale_width = coded.scales.size(2),
                          .first = first,
                          .positions = positions,
                          .dim = dim,
                          .out = static_cast<char*>(rows.mutable_data_ptr()),
                          .out_head_stride = rows.stride(0) * rows.element_size(),
                          .out_row_stride = rows.stride(1) * rows.element_size(),
                          .type = row_type(rows.scalar_type())};
    at::parallel_for(0, rows.size(0) * positions, kGrain,
                     [&](std::int64_t begin, std::int64_t end) { task.run(begin, end); });
    return;
  }
  decode_by_tensors(coded, first, rows);
}

at::Tensor GroupCodec::round_trip(const at::Tensor& rows) const {
  const CodedGroups coded = allocate({rows.size(0)}, rows.size(1), rows.size(2), rows.device());
  encode(rows, coded);
  at::Tensor kept = at::empty_like(rows, at::MemoryFormat::Contiguous);
  decode(coded, 0, kept);
  return kept;
}

void GroupCodec::decode_by_tensors(const CodedGroups& coded, std::int64_t first,
                                   const at::Tensor& rows) const {
  const std::int64_t dim = rows.size(2);
  const at::Tensor codes = coded.codes.narrow(1, first, rows.size(1));
  std::vector<at::Tensor> parts;
  for (std::int64_t part = 0; part < 8 / bits_; ++part) {
    parts.push_back(codes.bitwise_right_shift(part * bits_).bitwise_and((1 << bits_) - 1));
  }
  const auto of_numbers = [&](const at::Tensor& of_groups) {
    if (axis_ == GroupAxis::kPositions) {
      const std::int64_t skipped = first / group_;
      const std::int64_t used = (first + rows.size(1) + group_ - 1) / group_ - skipped;
      return of_groups.narrow(1, skipped, used)
          .repeat_interleave(group_, 1)
          .narrow(1, first - skipped * group_, rows.size(1));
    }
    return of_groups.narrow(1, first, rows.size(1)).repeat_interleave(group_, 2).narrow(2, 0, dim);
  };
  const double half = 1 << (bits_ - 1);
  rows.copy_(at::cat(parts, 2)
                 .narrow(2, 0, dim)
                 .to(at::kFloat)
                 .add_(of_numbers(coded.zeros.to(at::kFloat).sub_(half)))
                 .mul_(of_numbers(coded.scales.to(at::kFloat))));
}

}  // namespace kvtool::engine
