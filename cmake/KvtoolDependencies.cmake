# Debian's packages first; with KVTOOL_FETCH=ON, pinned downloads for systems
# that lack them.
if(KVTOOL_FETCH)
  include(FetchContent)
  FetchContent_Declare(nlohmann_json GIT_REPOSITORY https://github.com/nlohmann/json.git
    GIT_TAG v3.11.2 FIND_PACKAGE_ARGS 3.11)
  FetchContent_Declare(CLI11 GIT_REPOSITORY https://github.com/CLIUtils/CLI11.git
    GIT_TAG v2.1.2 FIND_PACKAGE_ARGS 2.1)
  FetchContent_Declare(fmt GIT_REPOSITORY https://github.com/fmtlib/fmt.git
    GIT_TAG 9.1.0 FIND_PACKAGE_ARGS 9.1)
  set(SPDLOG_FMT_EXTERNAL ON)
  FetchContent_Declare(spdlog GIT_REPOSITORY https://github.com/gabime/spdlog.git
    GIT_TAG v1.10.0 FIND_PACKAGE_ARGS 1.10)
  FetchContent_Declare(GTest GIT_REPOSITORY https://github.com/google/googletest.git
    GIT_TAG v1.12.1 FIND_PACKAGE_ARGS 1.12)
  FetchContent_Declare(pugixml GIT_REPOSITORY https://github.com/zeux/pugixml.git
    GIT_TAG v1.13 FIND_PACKAGE_ARGS 1.13)
  FetchContent_Declare(yaml-cpp GIT_REPOSITORY https://github.com/jbeder/yaml-cpp.git
    GIT_TAG 0.8.0 FIND_PACKAGE_ARGS 0.7)
  FetchContent_MakeAvailable(nlohmann_json CLI11 fmt spdlog GTest pugixml yaml-cpp)
else()
  find_package(nlohmann_json 3.11 REQUIRED)
  find_package(CLI11 2.1 REQUIRED)
  find_package(fmt 9.1 REQUIRED)
  find_package(spdlog 1.10 REQUIRED)
  find_package(GTest 1.12 REQUIRED)
  find_package(pugixml 1.13 REQUIRED)
  find_package(yaml-cpp 0.7 REQUIRED)
endif()
# Before 0.8 its target has no namespace.
if(NOT TARGET yaml-cpp::yaml-cpp)
  add_library(yaml-cpp::yaml-cpp ALIAS yaml-cpp)
endif()
find_package(Threads REQUIRED)

# On Debian, xxHash and zstd ship a pkg-config file only.
find_package(PkgConfig REQUIRED)
pkg_check_modules(XXHASH REQUIRED IMPORTED_TARGET libxxhash)
pkg_check_modules(ZSTD REQUIRED IMPORTED_TARGET libzstd>=1.5)
