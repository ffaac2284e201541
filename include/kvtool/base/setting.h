// Names of settings inside messages. A room below the command line says which setting
// mends an error, never how it is written: "choose another --out" at a terminal is
// "choose another out=" in Python. So a message holds marked names, and the door that
// shows it spells them.
#pragma once

#include <functional>
#include <string>
#include <string_view>

namespace kvtool {

// `name` marked as a setting, for a message. Names are those of run::Request's members and
// of the other request structs: "base_dir", "replay_modes".
[[nodiscard]] std::string setting(std::string_view name);

// `message` with every marked name replaced by what `spell` makes of it.
[[nodiscard]] std::string spelled(std::string_view message,
                                  const std::function<std::string(std::string_view)>& spell);

// `message` with every marked name as it stands in code, for a reader without a door.
[[nodiscard]] std::string unmarked(std::string_view message);

}  // namespace kvtool
