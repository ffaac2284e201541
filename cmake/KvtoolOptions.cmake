# Warnings, sanitizers and include folders for every target of ours, and the
# function that declares a room's tests.
add_library(kvtool_options INTERFACE)
target_include_directories(kvtool_options INTERFACE ${PROJECT_SOURCE_DIR}/include)
target_compile_definitions(kvtool_options INTERFACE KVTOOL_VERSION="${PROJECT_VERSION}")
target_compile_options(kvtool_options INTERFACE -Wall -Wextra -Wpedantic -Wshadow -Wconversion)
# Line tables are all that a backtrace needs; full debug information makes every
# file a third slower to compile and the binary ten times larger.
target_compile_options(kvtool_options INTERFACE $<$<CONFIG:RelWithDebInfo>:-g1>)
if(KVTOOL_WERROR)
  target_compile_options(kvtool_options INTERFACE -Werror)
endif()
if(KVTOOL_SANITIZE)
  target_compile_options(kvtool_options INTERFACE -fsanitize=${KVTOOL_SANITIZE}
    -fno-omit-frame-pointer -fno-sanitize-recover=all)
  target_link_options(kvtool_options INTERFACE -fsanitize=${KVTOOL_SANITIZE})
endif()
if(KVTOOL_FUZZ)
  target_compile_options(kvtool_options INTERFACE -fsanitize=fuzzer-no-link)
endif()

# kvtool_test(NAME SOURCES file... DEPENDS target...)
function(kvtool_test name)
  cmake_parse_arguments(TEST "" "" "SOURCES;DEPENDS" ${ARGN})
  add_executable(kvtool_${name}_test ${TEST_SOURCES})
  target_link_libraries(kvtool_${name}_test
    PRIVATE ${TEST_DEPENDS} kvtool_options GTest::gmock GTest::gtest_main)
  target_include_directories(kvtool_${name}_test PRIVATE ${PROJECT_SOURCE_DIR}/tests)
  set_target_properties(kvtool_${name}_test PROPERTIES
    RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
  gtest_discover_tests(kvtool_${name}_test DISCOVERY_MODE PRE_TEST
    PROPERTIES LABELS ${name} TIMEOUT 300)
endfunction()
