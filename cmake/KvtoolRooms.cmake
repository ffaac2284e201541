# What a room may include is what its targets name in DEPENDS. Declared here, it is
# linked by CMake and held against every include by tools/check_rooms.py (ctest rooms):
# linking alone lets through whatever a dependency depends on.

# kvtool_declare(TARGET DEPENDS target...)
# The room is the folder of src/ whose CMakeLists.txt calls.
function(kvtool_declare target)
  cmake_parse_arguments(DECLARE "" "" "DEPENDS" ${ARGN})
  cmake_path(RELATIVE_PATH CMAKE_CURRENT_SOURCE_DIR BASE_DIRECTORY ${PROJECT_SOURCE_DIR}/src
    OUTPUT_VARIABLE room)
  string(JOIN " " line ${room} ${target} ${DECLARE_DEPENDS})
  set_property(GLOBAL APPEND_STRING PROPERTY KVTOOL_ROOMS "${line}\n")
endfunction()

# kvtool_room(NAME SOURCES file... [DEPENDS target...])
# A static library kvtool_NAME with alias kvtool::NAME.
function(kvtool_room name)
  cmake_parse_arguments(ROOM "" "" "SOURCES;DEPENDS" ${ARGN})
  kvtool_declare(kvtool::${name} DEPENDS ${ROOM_DEPENDS})
  add_library(kvtool_${name} STATIC ${ROOM_SOURCES})
  add_library(kvtool::${name} ALIAS kvtool_${name})
  target_link_libraries(kvtool_${name} PUBLIC ${ROOM_DEPENDS} PRIVATE kvtool_options)
  target_include_directories(kvtool_${name} PUBLIC ${PROJECT_SOURCE_DIR}/include)
  kvtool_unite(kvtool_${name} 12)
endfunction()

# Writes the declarations of all rooms, one target a line, for tools/check_rooms.py.
function(kvtool_write_rooms file)
  get_property(rooms GLOBAL PROPERTY KVTOOL_ROOMS)
  file(WRITE ${file} "${rooms}")
endfunction()
