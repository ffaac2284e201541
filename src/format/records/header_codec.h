// The file header: magic, version, feature bits, geometry. docs/format.md, "Header".
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "kvtool/base/file.h"
#include "kvtool/format/recording.h"

namespace kvtool::format {

inline constexpr std::array<std::uint8_t, 8> kMagic = {0x89, 'K', 'V', 'T', 0x0D, 0x0A, 0x1A, 0x0A};
inline constexpr std::uint16_t kMajorVersion = 1;
// What a writer says: the first version that knows everything that the file uses.
inline constexpr std::uint16_t kPlainMinorVersion = 0;
inline constexpr std::uint16_t kExtendedMinorVersion = 1;
// Incompatible feature bit of 1.1: the header has the extension behind the layer table.
inline constexpr std::uint64_t kExtendedFeature = 2;
inline constexpr std::uint64_t kHeaderFixedBytes = 128;
inline constexpr std::uint64_t kLayerEntryBytes = 32;
inline constexpr std::uint64_t kExtensionFixedBytes = 32;
inline constexpr std::uint64_t kExtensionEntryBytes = 32;
inline constexpr std::uint64_t kMaxHeaderBytes = 1u << 20;

// What is wrong with these values, in words; empty when nothing is. The
// geometry has checked itself.
[[nodiscard]] std::string header_problem(const RecordingHeader& header);

// The header uses something that version 1.0 does not have.
[[nodiscard]] bool is_extended(const RecordingHeader& header);

// A multiple of kRecordAlignment.
[[nodiscard]] std::vector<std::byte> encode_header(const RecordingHeader& header);

// The layers as they stand in a header that has room for all that it announces. Unchecked.
[[nodiscard]] std::vector<LayerGeometry> decode_layers(std::span<const std::byte> header);

struct DecodedHeader {
  RecordingHeader header;
  std::uint64_t header_bytes = 0;  // where the first record starts
};

// Error kCorrupt when the file is no recording or its header is damaged or cut
// short; kIncompatible for versions and features that this reader does not know.
// `known_features`: the incompatible feature bits that the caller can handle, beside
// kExtendedFeature.
[[nodiscard]] DecodedHeader read_header(const RandomAccessFile& file,
                                        std::uint64_t known_features = 0);

// The file starts with the magic and has one of these incompatible feature bits.
// Nothing else is checked.
[[nodiscard]] bool claims_feature(const RandomAccessFile& file, std::uint64_t features);

}  // namespace kvtool::format
