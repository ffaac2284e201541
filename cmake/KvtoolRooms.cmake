# What a room may include is what its targets name in DEPENDS. Declared here, it is
# linked by CMake and held against every include by tools/check_rooms.py (ctest rooms):
# linking alone lets through whatever a dependency depends on.

# Of the standard library, what many sources include, or what is long.
set(KVTOOL_STANDARD_HEADERS
  <algorithm> <chrono> <filesystem> <functional> <map> <memory> <optional> <ranges> <span> <sstream>
  <string> <variant> <vector>)

# kvtool_declare(TARGET DEPENDS target...)
# The room is the folder of src/ whose CMakeLists.txt calls.
function(kvtool_declare target)
  cmake_parse_arguments(DECLARE "" "" "DEPENDS" ${ARGN})
  cmake_path(RELATIVE_PATH CMAKE_CURRENT_SOURCE_DIR BASE_DIRECTORY ${PROJECT_SOURCE_DIR}/src
    OUTPUT_VARIABLE room)
  string(JOIN " " line ${room} ${target} ${DECLARE_DEPENDS})
  set_property(GLOBAL APPEND_STRING PROPERTY KVTOOL_ROOMS "${line}\n")
endfunction()

# kvtool_room(NAME SOURCES file... [DEPENDS target...] [PRECOMPILE file...])
# A static library kvtool_NAME with alias kvtool::NAME. PRECOMPILE: headers of other
# libraries that are worth compiling once for all sources (KVTOOL_PCH).
function(kvtool_room name)
  cmake_parse_arguments(ROOM "" "" "SOURCES;DEPENDS;PRECOMPILE" ${ARGN})
  kvtool_declare(kvtool::${name} DEPENDS ${ROOM_DEPENDS})
  add_library(kvtool_${name} STATIC ${ROOM_SOURCES})
  add_library(kvtool::${name} ALIAS kvtool_${name})
  target_link_libraries(kvtool_${name} PUBLIC ${ROOM_DEPENDS} PRIVATE kvtool_options)
  target_include_directories(kvtool_${name} PUBLIC ${PROJECT_SOURCE_DIR}/include)
  kvtool_unite(kvtool_${name} 12)
  if(KVTOOL_PCH AND ROOM_PRECOMPILE)
    target_precompile_headers(kvtool_${name} PRIVATE ${KVTOOL_STANDARD_HEADERS} ${ROOM_PRECOMPILE})
  endif()
endfunction()

# Writes the declarations of all rooms, one target a line, for tools/check_rooms.py.
function(kvtool_write_rooms file)
  get_property(rooms GLOBAL PROPERTY KVTOOL_ROOMS)
  file(WRITE ${file} "${rooms}")
endfunction()
