// How far apart the bytes are at which a test changes or cuts a file.
#pragma once

#include <cstddef>

#ifndef __has_feature
#define __has_feature(feature) 0
#endif

namespace kvtool {

// What comes of every single byte is shown by the build without sanitizers. Under them, at a
// tenth of its speed, it counts that no access goes astray: every third byte is part of every
// number of four or eight bytes. Where to begin differs by first_of(n), so that three values of
// n together have every byte, such as the save modes, whose files begin alike.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || \
    __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
inline constexpr std::size_t kStride = 3;
#else
inline constexpr std::size_t kStride = 1;
#endif

template <typename T>
[[nodiscard]] constexpr std::size_t first_of(T which) {
  return static_cast<std::size_t>(which) % kStride;
}

}  // namespace kvtool
