// What two recordings of the same run have in common, byte by byte: everything but
// what differs between any two runs (docs/durability.md).
#pragma once

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>

namespace kvtool {
namespace recording_content_detail {

inline constexpr std::size_t kHeaderBytes = 64;  // of a record
enum Type { kMeta = 1, kPrefillEnd = 4, kStep = 5, kSummary = 7, kTrailer = 8 };

template <typename T>
T number_at(const std::string& bytes, std::size_t offset) {
  T value{};
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

inline void blank(std::string& bytes, std::size_t offset, std::size_t count) {
  std::fill_n(bytes.begin() + static_cast<std::ptrdiff_t>(offset), count, '\0');
}

inline std::string without(nlohmann::json document, const char* kind) {
  if (std::string(kind) == "meta") {
    document.erase("created_utc");
    if (document.contains("run")) document["run"].erase("batch_id");
  } else {
    document.erase("prefill_seconds");
    document.erase("decode_seconds");
  }
  return document.dump();
}

inline std::string payload_without(std::string payload, std::uint16_t type,
                                   std::size_t stats_bytes) {
  switch (type) {
    case kMeta: return without(nlohmann::json::parse(payload), "meta");
    case kSummary: return without(nlohmann::json::parse(payload), "summary");
    case kPrefillEnd:
    case kStep:
      blank(payload, 8, 8);                // elapsed_ns
      blank(payload, stats_bytes - 8, 8);  // the checksum over it
      return payload;
    case kTrailer:
      blank(payload, 0, 8);
      return payload;  // file length: SUMMARY has numbers as text
    default: return payload;
  }
}

}  // namespace recording_content_detail

// Of a complete recording. Left out: the UUID, created_utc, run.batch_id, elapsed_ns of
// every step, the seconds in SUMMARY, and the checksums over these.
inline std::string recording_content(const std::filesystem::path& path) {
  using namespace recording_content_detail;
  std::ifstream file(path, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(file), {}};
  const auto header_bytes = number_at<std::uint32_t>(bytes, 12);
  const auto stats_bytes = number_at<std::uint64_t>(bytes, 120);
  std::string content = bytes.substr(0, header_bytes);
  blank(content, 32, 16);
  blank(content, header_bytes - 8, 8);
  for (std::size_t at = header_bytes; at < bytes.size();) {
    std::string header = bytes.substr(at, kHeaderBytes);
    const auto type = number_at<std::uint16_t>(header, 0);
    const auto length = number_at<std::uint64_t>(header, 24);
    const std::string payload = bytes.substr(at + kHeaderBytes, length);
    at += (kHeaderBytes + length + 63) / 64 * 64;
    blank(header, 40, 24);  // UUID and both checksums
    if (type == kSummary) blank(header, 24, 16);
    if (type == kTrailer) blank(header, 16, 8);
    content += header + payload_without(payload, type, stats_bytes);
  }
  return content;
}

}  // namespace kvtool
