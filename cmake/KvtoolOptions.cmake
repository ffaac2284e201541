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

# kvtool_unite(TARGET FILES)
# Compiles FILES sources of a target at a time as one: most of what a small source
# compiles is headers, and the templates of JSON, CLI11 and torch in them. So a name that
# a file keeps to itself must be unlike those of its neighbours in the list of sources.
function(kvtool_unite target files)
  set_target_properties(${target} PROPERTIES
    UNITY_BUILD ${KVTOOL_UNITY} UNITY_BUILD_BATCH_SIZE ${files})
  # Included by CMake's source, a .cc looks like a header to this warning.
  if(KVTOOL_UNITY AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    target_compile_options(${target} PRIVATE -Wno-subobject-linkage)
  endif()
endfunction()

# What nearly every test includes, compiled once for all of them: kvtool_test_headers
# holds nothing else. Code of tests is not optimised, it is compiled more often than run;
# both together halve the time that the tests take to compile.
set(KVTOOL_TEST_HEADERS <gmock/gmock.h> <gtest/gtest.h> <nlohmann/json.hpp>)
set(KVTOOL_TEST_OPTIONS -O0)

function(kvtool_test_headers)
  file(GENERATE OUTPUT ${PROJECT_BINARY_DIR}/tests/headers.cc CONTENT "")
  add_library(kvtool_test_headers OBJECT ${PROJECT_BINARY_DIR}/tests/headers.cc)
  target_link_libraries(kvtool_test_headers
    PRIVATE kvtool_options GTest::gmock nlohmann_json::nlohmann_json)
  target_compile_options(kvtool_test_headers PRIVATE ${KVTOOL_TEST_OPTIONS})
  target_precompile_headers(kvtool_test_headers PRIVATE ${KVTOOL_TEST_HEADERS})
  kvtool_default_position(kvtool_test_headers)
endfunction()

# CMake asks for -fPIC in one kind of target and -fPIE in the other, which then cannot share
# precompiled headers; the compiler's own choice is the same for both.
function(kvtool_default_position target)
  set_target_properties(${target} PROPERTIES POSITION_INDEPENDENT_CODE OFF)
endfunction()

# kvtool_test(NAME SOURCES file... DEPENDS target... [HEADERS file...])
# A GoogleTest program, which ctest runs as two processes that share its tests. A
# process for each test would spend its time on starting: most take a millisecond.
# Each leaves its tests in tests/results as JUnit XML, which tools/count_tests.py counts.
# HEADERS: what its sources include and precompile in place of KVTOOL_TEST_HEADERS. Where
# sources are united, two or three of them do not make up for precompiling long ones.
function(kvtool_test name)
  cmake_parse_arguments(TEST "" "" "SOURCES;DEPENDS;HEADERS" ${ARGN})
  add_executable(kvtool_${name}_test ${TEST_SOURCES})
  kvtool_default_position(kvtool_${name}_test)
  target_compile_options(kvtool_${name}_test PRIVATE ${KVTOOL_TEST_OPTIONS})
  if(TEST_HEADERS AND KVTOOL_UNITY)
    set_target_properties(kvtool_${name}_test PROPERTIES DISABLE_PRECOMPILE_HEADERS ON)
  elseif(TEST_HEADERS)
    target_precompile_headers(kvtool_${name}_test PRIVATE ${TEST_HEADERS})
  else()
    target_precompile_headers(kvtool_${name}_test REUSE_FROM kvtool_test_headers)
  endif()
  target_link_libraries(kvtool_${name}_test
    PRIVATE ${TEST_DEPENDS} kvtool_options GTest::gmock GTest::gtest_main)
  target_include_directories(kvtool_${name}_test PRIVATE ${PROJECT_SOURCE_DIR}/tests)
  kvtool_unite(kvtool_${name}_test 12)
  set_target_properties(kvtool_${name}_test PROPERTIES
    RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
  foreach(shard 0 1)
    set(results ${PROJECT_BINARY_DIR}/tests/results/${name}.${shard}.xml)
    add_test(NAME ${name}.${shard}
      COMMAND kvtool_${name}_test --gtest_brief=1 --gtest_output=xml:${results})
    set_tests_properties(${name}.${shard} PROPERTIES LABELS ${name} TIMEOUT 900
      # Of the engine: two programs of two threads each, which spin while they wait, take many times
      # as long as one.
      ENVIRONMENT "GTEST_TOTAL_SHARDS=2;GTEST_SHARD_INDEX=${shard};OMP_WAIT_POLICY=passive")
  endforeach()
endfunction()

# kvtool_docs_test(NAME): the test of room NAME has a docs_test.cc, which holds tables of
# docs/ to those of the code. It alone knows that folder: paths would keep a compiler cache
# from serving another one.
function(kvtool_docs_test name)
  target_sources(kvtool_${name}_test
    PRIVATE docs_test.cc ${PROJECT_SOURCE_DIR}/tests/support/markdown_table.cc)
  set_source_files_properties(docs_test.cc PROPERTIES
    COMPILE_DEFINITIONS KVTOOL_DOCS="${PROJECT_SOURCE_DIR}/docs")
endfunction()
