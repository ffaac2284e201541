#include "engine/token_table.h"

#include <cstring>

#include "kvtool/base/error.h"

namespace kvtool::engine {

TokenTable::TokenTable(const std::string& path, std::string data) : data_(std::move(data)) {
  if (data_.empty()) return;
  const auto damaged = [&path] {
    throw_incompatible(path + ": its token_bytes.bin is damaged; export the model again");
  };
  std::uint32_t count = 0;
  if (data_.size() < sizeof count) damaged();
  std::memcpy(&count, data_.data(), sizeof count);
  base_ = sizeof count + (std::size_t{count} + 1) * sizeof(std::uint32_t);
  if (data_.size() < base_) damaged();
  offsets_.resize(std::size_t{count} + 1);
  std::memcpy(offsets_.data(), data_.data() + sizeof count,
              offsets_.size() * sizeof(std::uint32_t));
  for (std::size_t index = 1; index < offsets_.size(); ++index) {
    if (offsets_[index] < offsets_[index - 1]) damaged();
  }
  if (base_ + offsets_.back() > data_.size()) damaged();
}

std::string_view TokenTable::bytes(std::int32_t token) const {
  const auto index = static_cast<std::size_t>(token);
  if (token < 0 || index + 1 >= offsets_.size()) return {};
  return std::string_view(data_).substr(base_ + offsets_[index],
                                        offsets_[index + 1] - offsets_[index]);
}

}  // namespace kvtool::engine
