#include "header_codec.h"

#include <algorithm>
#include <cstdio>
#include <utility>

#include "format/bytes.h"
#include "format/checksum.h"
#include "format/layout.h"
#include "kvtool/base/checked.h"
#include "kvtool/base/error.h"

namespace kvtool::format {
namespace {

// Field offsets, docs/format.md.
constexpr std::size_t kMajorAt = 8;
constexpr std::size_t kMinorAt = 10;
constexpr std::size_t kHeaderBytesAt = 12;
constexpr std::size_t kIncompatibleFeaturesAt = 16;
constexpr std::size_t kCompatibleFeaturesAt = 24;
constexpr std::size_t kUuidAt = 32;
constexpr std::size_t kModelAt = 48;
constexpr std::size_t kSaveModeAt = 80;
constexpr std::size_t kLogitsDTypeAt = 81;
constexpr std::size_t kVocabAt = 84;
constexpr std::size_t kTopKAt = 88;
constexpr std::size_t kLayersAt = 92;
constexpr std::size_t kPromptLengthAt = 96;
constexpr std::size_t kDeltaBytesAt = 104;
constexpr std::size_t kStrideAt = 112;
constexpr std::size_t kStatsBytesAt = 120;

constexpr std::size_t kChecksumBytes = 8;

std::size_t extension_at(std::size_t layers) {
  return kHeaderFixedBytes + kLayerEntryBytes * layers;
}

std::uint64_t header_bytes_for(std::size_t layers, bool extended) {
  const std::size_t extension = extended ? kExtensionFixedBytes + kExtensionEntryBytes * layers : 0;
  return align_up(extension_at(layers) + extension + kChecksumBytes, kRecordAlignment);
}

template <std::size_t N>
void store_array(std::span<std::byte> to, std::size_t offset,
                 const std::array<std::uint8_t, N>& value) {
  copy_bytes(std::as_bytes(std::span(value)), to.subspan(offset, N));
}

template <std::size_t N>
std::array<std::uint8_t, N> load_array(std::span<const std::byte> from, std::size_t offset) {
  std::array<std::uint8_t, N> value{};
  copy_bytes(from.subspan(offset, N), std::as_writable_bytes(std::span(value)));
  return value;
}

void encode_layer(const LayerGeometry& layer, const RowOffset& offset, std::span<std::byte> entry) {
  const auto type = [](const std::optional<RowCode>& code, DType dtype) {
    return code ? static_cast<std::uint8_t>(code->type) : static_cast<std::uint8_t>(dtype);
  };
  store(entry, 0, type(layer.key_code, layer.key_dtype));
  store(entry, 1, type(layer.value_code, layer.value_dtype));
  store(entry, 4, layer.num_kv_heads);
  store(entry, 8, layer.key_dim);
  store(entry, 12, layer.value_dim);
  store(entry, 16, offset.key);
  store(entry, 24, offset.value);
}

void encode_code(const std::optional<RowCode>& code, DType decoded, std::span<std::byte> to) {
  if (!code) return;
  store(to, 0, static_cast<std::uint8_t>(code->scale_dtype));
  store(to, 1, static_cast<std::uint8_t>(decoded));
  store(to, 2, static_cast<std::uint8_t>(code->has_offsets));
  store(to, 4, code->group_channels);
  store(to, 8, code->group_positions);
}

// Takes the element type out of `dtype`, where the code has its own.
std::optional<RowCode> decode_code(std::span<const std::byte> from, DType& dtype) {
  const auto scale = load<std::uint8_t>(from, 0);
  if (scale == 0) return std::nullopt;
  RowCode code;
  code.type = static_cast<CodeType>(dtype);
  code.scale_dtype = static_cast<DType>(scale);
  code.has_offsets = load<std::uint8_t>(from, 2) != 0;
  code.group_channels = load<std::uint32_t>(from, 4);
  code.group_positions = load<std::uint32_t>(from, 8);
  dtype = static_cast<DType>(load<std::uint8_t>(from, 1));
  return code;
}

LayerGeometry decode_layer(std::span<const std::byte> entry) {
  LayerGeometry layer;
  layer.key_dtype = static_cast<DType>(load<std::uint8_t>(entry, 0));
  layer.value_dtype = static_cast<DType>(load<std::uint8_t>(entry, 1));
  layer.num_kv_heads = load<std::uint32_t>(entry, 4);
  layer.key_dim = load<std::uint32_t>(entry, 8);
  layer.value_dim = load<std::uint32_t>(entry, 12);
  return layer;
}

void encode_extension(const RecordingHeader& header, std::span<std::byte> to) {
  store(to, 0, header.logits_sample);
  for (std::size_t i = 0; i < header.geometry.num_layers(); ++i) {
    const LayerGeometry& layer = header.geometry.layer(i);
    const auto entry = to.subspan(kExtensionFixedBytes + i * kExtensionEntryBytes);
    encode_code(layer.key_code, layer.key_dtype, entry);
    encode_code(layer.value_code, layer.value_dtype, entry.subspan(kExtensionEntryBytes / 2));
  }
}

// What the first bytes say about a file that is not a recording.
std::string guess_format(std::span<const std::byte> start) {
  const auto begins = [&](std::initializer_list<int> bytes) {
    return start.size() >= bytes.size() &&
           std::equal(bytes.begin(), bytes.end(), start.begin(),
                      [](int a, std::byte b) { return a == std::to_integer<int>(b); });
  };
  if (begins({0x89, 'K', 'V', 'T'})) return ", a recording changed by a text-mode transfer?";
  if (begins({'P', 'K', 3, 4})) return ", a ZIP archive or TorchScript file?";
  if (begins({0x1f, 0x8b})) return ", a gzip file?";
  if (begins({0x28, 0xb5, 0x2f, 0xfd})) return ", a zstd file?";
  if (begins({0x7f, 'E', 'L', 'F'})) return ", a program?";
  if (begins({'{'})) return ", a JSON file?";
  return "";
}

[[noreturn]] void throw_not_a_recording(const std::string& path, std::span<const std::byte> start) {
  std::string bytes;
  for (const std::byte value : start.subspan(0, std::min<std::size_t>(start.size(), 4))) {
    char text[8];
    std::snprintf(text, sizeof(text), " %02X", std::to_integer<unsigned>(value));
    bytes += text;
  }
  throw_corrupt(path + ": not a kvtool recording (starts with" + bytes + guess_format(start) + ")");
}

[[noreturn]] void throw_cut(const std::string& path) {
  throw_corrupt(path + ": the file ends within its header: nothing can be read");
}

[[noreturn]] void throw_damaged(const std::string& path, const std::string& what) {
  throw_corrupt(path + ": header at byte 0: " + what +
                ": the file is damaged, copy it again or record again");
}

void check_magic(const std::string& path, std::span<const std::byte> start) {
  if (start.empty()) throw_corrupt(path + ": empty file, not a kvtool recording");
  const auto magic = std::as_bytes(std::span(kMagic));
  const std::size_t length = std::min(start.size(), magic.size());
  if (!std::equal(start.begin(), start.begin() + static_cast<std::ptrdiff_t>(length),
                  magic.begin())) {
    throw_not_a_recording(path, start);
  }
}

void check_version(const std::string& path, std::span<const std::byte> fixed,
                   std::uint64_t known_features) {
  const auto major = load<std::uint16_t>(fixed, kMajorAt);
  if (major != kMajorVersion) {
    throw_incompatible(path + ": format version " + std::to_string(major) +
                       ", this kvtool reads version " + std::to_string(kMajorVersion) +
                       (major > kMajorVersion ? ": update kvtool" : ""));
  }
  const auto features = load<std::uint64_t>(fixed, kIncompatibleFeaturesAt);
  const std::uint64_t unknown = features & ~(known_features | kExtendedFeature);
  if (unknown != 0) {
    char text[32];
    std::snprintf(text, sizeof(text), "0x%llx", static_cast<unsigned long long>(unknown));
    throw_incompatible(path + ": uses format features that this kvtool does not know (bits " +
                       text + "): update kvtool");
  }
}

bool has_extension(std::span<const std::byte> fixed) {
  return (load<std::uint64_t>(fixed, kIncompatibleFeaturesAt) & kExtendedFeature) != 0;
}

std::uint64_t checked_header_bytes(const std::string& path, std::span<const std::byte> fixed,
                                   std::uint64_t file_bytes) {
  const std::uint64_t bytes = load<std::uint32_t>(fixed, kHeaderBytesAt);
  if (bytes > kMaxHeaderBytes || bytes < header_bytes_for(1, false) ||
      bytes % kRecordAlignment != 0) {
    throw_damaged(path, "impossible header length " + std::to_string(bytes));
  }
  // Only a later minor version may append fields. Without this check a damaged
  // length would read as a file that was cut short.
  const auto layers = load<std::uint32_t>(fixed, kLayersAt);
  const auto minor = load<std::uint16_t>(fixed, kMinorAt);
  const bool extended = has_extension(fixed);
  const std::uint64_t least = header_bytes_for(layers, extended);
  const bool exact = minor <= (extended ? kExtendedMinorVersion : kPlainMinorVersion);
  if (exact && bytes != least) {
    throw_damaged(path, "length " + std::to_string(bytes) + " does not fit " +
                            std::to_string(layers) + " layers");
  }
  if (bytes > file_bytes) throw_cut(path);
  return bytes;
}

Geometry decode_geometry(const std::string& path, std::span<const std::byte> bytes) {
  const auto count = load<std::uint32_t>(bytes, kLayersAt);
  if (count < 1 || count > kMaxLayers) {
    throw_damaged(path, "impossible number of layers " + std::to_string(count));
  }
  if (header_bytes_for(count, has_extension(bytes)) > bytes.size()) {
    throw_damaged(path, "length " + std::to_string(bytes.size()) + " does not fit " +
                            std::to_string(count) + " layers");
  }
  try {
    return Geometry(decode_layers(bytes));
  } catch (const Error& error) {
    throw_damaged(path, error.what());
  }
}

void check_derived(const std::string& path, std::span<const std::byte> bytes,
                   const RecordingHeader& header) {
  const auto check = [&](std::size_t at, std::uint64_t expected, const char* what) {
    const auto found = load<std::uint64_t>(bytes, at);
    if (found == expected) return;
    throw_damaged(path, std::string(what) + " is " + std::to_string(found) +
                            ", the geometry asks for " + std::to_string(expected));
  };
  check(kDeltaBytesAt, header.geometry.delta_bytes(), "delta length");
  check(kStrideAt, step_stride_bytes(header), "step stride");
  check(kStatsBytesAt, stats_block_bytes(header), "statistics length");
  for (std::size_t i = 0; i < header.geometry.num_layers(); ++i) {
    const std::size_t entry = kHeaderFixedBytes + i * kLayerEntryBytes;
    check(entry + 16, header.geometry.row_offset(i).key, "key row offset");
    check(entry + 24, header.geometry.row_offset(i).value, "value row offset");
  }
}

RecordingHeader decode_fields(const std::string& path, std::span<const std::byte> bytes) {
  RecordingHeader header;
  header.uuid = load_array<16>(bytes, kUuidAt);
  header.model_sha256 = load_array<32>(bytes, kModelAt);
  header.save_mode = static_cast<SaveMode>(load<std::uint8_t>(bytes, kSaveModeAt));
  header.logits_dtype = static_cast<DType>(load<std::uint8_t>(bytes, kLogitsDTypeAt));
  header.vocab_size = load<std::uint32_t>(bytes, kVocabAt);
  header.top_k = load<std::uint32_t>(bytes, kTopKAt);
  header.prompt_length = load<std::uint64_t>(bytes, kPromptLengthAt);
  header.geometry = decode_geometry(path, bytes);
  if (has_extension(bytes)) {
    header.logits_sample = load<std::uint32_t>(bytes, extension_at(header.geometry.num_layers()));
  }
  const std::string problem = header_problem(header);
  if (!problem.empty()) throw_damaged(path, problem);
  check_derived(path, bytes, header);
  return header;
}

}  // namespace

std::string header_problem(const RecordingHeader& header) {
  const auto mode = static_cast<std::uint8_t>(header.save_mode);
  if (mode < 1 || mode > 3) return "unknown save mode " + std::to_string(mode);
  if (!is_known_dtype(static_cast<std::uint8_t>(header.logits_dtype))) {
    return "unknown logits element type";
  }
  if (header.vocab_size < 1 || header.vocab_size > 0x7fffffffu) {
    return "impossible vocabulary size " + std::to_string(header.vocab_size);
  }
  if (header.top_k > kMaxTopK || header.top_k > header.vocab_size) {
    return "top-k of " + std::to_string(header.top_k) + " is more than the vocabulary or than " +
           std::to_string(kMaxTopK);
  }
  if (header.logits_sample > kMaxLogitsSample || header.logits_sample > header.vocab_size) {
    return "sample of " + std::to_string(header.logits_sample) +
           " logits is more than the vocabulary or than " + std::to_string(kMaxLogitsSample);
  }
  if (header.geometry.num_layers() == 0) return "no layers";
  if (header.prompt_length == 0) return "empty prompt";
  if (header.prompt_length > kMaxPromptTokens) {
    return "impossible prompt length " + std::to_string(header.prompt_length);
  }
  return "";
}

bool is_extended(const RecordingHeader& header) {
  const auto& layers = header.geometry.layers();
  return header.logits_sample > 0 || !std::all_of(layers.begin(), layers.end(),
                                                  [](const auto& each) { return each.is_plain(); });
}

std::vector<LayerGeometry> decode_layers(std::span<const std::byte> header) {
  const auto count = load<std::uint32_t>(header, kLayersAt);
  std::vector<LayerGeometry> layers;
  layers.reserve(count);
  for (std::size_t i = 0; i < count; ++i) {
    LayerGeometry layer =
        decode_layer(header.subspan(kHeaderFixedBytes + i * kLayerEntryBytes, kLayerEntryBytes));
    if (has_extension(header)) {
      const auto entry =
          header.subspan(extension_at(count) + kExtensionFixedBytes + i * kExtensionEntryBytes);
      layer.key_code = decode_code(entry, layer.key_dtype);
      layer.value_code = decode_code(entry.subspan(kExtensionEntryBytes / 2), layer.value_dtype);
    }
    layers.push_back(layer);
  }
  return layers;
}

std::vector<std::byte> encode_header(const RecordingHeader& header) {
  const std::size_t count = header.geometry.num_layers();
  const bool extended = is_extended(header);
  std::vector<std::byte> bytes(header_bytes_for(count, extended));
  const std::span<std::byte> to(bytes);
  store_array(to, 0, kMagic);
  store(to, kMajorAt, kMajorVersion);
  store(to, kMinorAt, extended ? kExtendedMinorVersion : kPlainMinorVersion);
  store(to, kHeaderBytesAt, static_cast<std::uint32_t>(bytes.size()));
  store(to, kIncompatibleFeaturesAt, extended ? kExtendedFeature : std::uint64_t{0});
  store(to, kCompatibleFeaturesAt, std::uint64_t{0});
  store_array(to, kUuidAt, header.uuid);
  store_array(to, kModelAt, header.model_sha256);
  store(to, kSaveModeAt, static_cast<std::uint8_t>(header.save_mode));
  store(to, kLogitsDTypeAt, static_cast<std::uint8_t>(header.logits_dtype));
  store(to, kVocabAt, header.vocab_size);
  store(to, kTopKAt, header.top_k);
  store(to, kLayersAt, static_cast<std::uint32_t>(count));
  store(to, kPromptLengthAt, header.prompt_length);
  store(to, kDeltaBytesAt, header.geometry.delta_bytes());
  store(to, kStrideAt, step_stride_bytes(header));
  store(to, kStatsBytesAt, stats_block_bytes(header));
  for (std::size_t i = 0; i < count; ++i) {
    encode_layer(header.geometry.layer(i), header.geometry.row_offset(i),
                 to.subspan(kHeaderFixedBytes + i * kLayerEntryBytes, kLayerEntryBytes));
  }
  if (extended) encode_extension(header, to.subspan(extension_at(count)));
  const std::size_t checksum_at = bytes.size() - kChecksumBytes;
  store(to, checksum_at, checksum(to.subspan(0, checksum_at)));
  return bytes;
}

DecodedHeader read_header(const RandomAccessFile& file, std::uint64_t known_features) {
  const std::string path = file.path().string();
  std::vector<std::byte> bytes(kHeaderFixedBytes);
  bytes.resize(file.read(0, bytes));
  check_magic(path, bytes);
  if (bytes.size() < kHeaderFixedBytes) throw_cut(path);
  check_version(path, bytes, known_features);
  bytes.resize(checked_header_bytes(path, bytes, file.size()));
  const std::span<std::byte> rest = std::span(bytes).subspan(kHeaderFixedBytes);
  if (file.read(kHeaderFixedBytes, rest) < rest.size()) throw_cut(path);
  const std::size_t checksum_at = bytes.size() - kChecksumBytes;
  if (load<std::uint64_t>(bytes, checksum_at) !=
      checksum(std::span(bytes).subspan(0, checksum_at))) {
    throw_damaged(path, "wrong checksum");
  }
  return {decode_fields(path, bytes), bytes.size()};
}

bool claims_feature(const RandomAccessFile& file, std::uint64_t features) {
  std::array<std::byte, kCompatibleFeaturesAt> start;
  if (file.read(0, start) < start.size()) return false;
  const auto magic = std::as_bytes(std::span(kMagic));
  return std::equal(magic.begin(), magic.end(), start.begin()) &&
         (load<std::uint64_t>(start, kIncompatibleFeaturesAt) & features) != 0;
}

}  // namespace kvtool::format
