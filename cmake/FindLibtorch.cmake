# Finds the libtorch that lies inside an installed Python wheel.
#
# find_package(Torch) of a CUDA wheel needs the CUDA toolkit even for code that
# uses none of it; linking the libraries directly does not, and libtorch.so
# brings libtorch_cuda.so along where there is one. Asks Python where torch is
# without importing it.
#
# Sets Libtorch_FOUND, Libtorch_VERSION and the imported target Libtorch::torch.
set(_python ${KVTOOL_PYTHON})
if(NOT _python)
  find_program(_python NAMES python3 python)
endif()

execute_process(
  COMMAND ${_python} -c "
import importlib.util, pathlib, re, sys
spec = importlib.util.find_spec('torch')
if spec is None:
    sys.exit('no module named torch')
folder = pathlib.Path(spec.submodule_search_locations[0])
version = re.search(r'__version__\\s*=\\s*[\\x22\\x27]([^\\x22\\x27]+)', (folder / 'version.py').read_text())
print(f'{folder}|{version.group(1)}')"
  OUTPUT_VARIABLE _answer ERROR_VARIABLE _reason RESULT_VARIABLE _status
  OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_STRIP_TRAILING_WHITESPACE)
if(_status EQUAL 0)
  string(REPLACE "|" ";" _answer "${_answer}")
  list(GET _answer 0 Libtorch_ROOT)
  list(GET _answer 1 Libtorch_FULL_VERSION)
  string(REGEX MATCH "^[0-9]+\\.[0-9]+\\.[0-9]+" Libtorch_VERSION "${Libtorch_FULL_VERSION}")
else()
  string(CONCAT Libtorch_NOT_FOUND_MESSAGE "${_python} has no torch (${_reason}): install torch 2.11 to 2.15, "
    "name another interpreter with -DKVTOOL_PYTHON, or build without the engine: -DKVTOOL_ENGINE=OFF")
endif()

foreach(_name torch torch_cpu c10)
  find_library(Libtorch_${_name}_LIBRARY ${_name} PATHS ${Libtorch_ROOT}/lib NO_DEFAULT_PATH)
  mark_as_advanced(Libtorch_${_name}_LIBRARY)
endforeach()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(Libtorch
  REQUIRED_VARS Libtorch_torch_LIBRARY Libtorch_torch_cpu_LIBRARY Libtorch_c10_LIBRARY Libtorch_ROOT
  VERSION_VAR Libtorch_VERSION
  HANDLE_VERSION_RANGE
  REASON_FAILURE_MESSAGE "${Libtorch_NOT_FOUND_MESSAGE}")

if(Libtorch_FOUND AND NOT TARGET Libtorch::torch)
  foreach(_name torch_cpu c10)
    add_library(Libtorch::${_name} SHARED IMPORTED)
    set_target_properties(Libtorch::${_name} PROPERTIES
      IMPORTED_LOCATION ${Libtorch_${_name}_LIBRARY})
  endforeach()
  # libtorch.so itself has no symbol of its own: the linker would drop it, and
  # with it CUDA, so it is named as needed.
  add_library(Libtorch::torch INTERFACE IMPORTED)
  # What libtorch_cuda.so needs of NVIDIA's libraries is found when it is loaded.
  target_link_libraries(Libtorch::torch INTERFACE
    -Wl,--allow-shlib-undefined -Wl,--no-as-needed ${Libtorch_torch_LIBRARY} -Wl,--as-needed Libtorch::torch_cpu Libtorch::c10)
  target_include_directories(Libtorch::torch SYSTEM INTERFACE
    ${Libtorch_ROOT}/include ${Libtorch_ROOT}/include/torch/csrc/api/include)
  # at::parallel_for() in a header of torch's runs on torch's threads only where the
  # compiler knows OpenMP. They are those of the library in the wheel: another copy, as
  # -fopenmp would link it, has threads of its own that wait beside them.
  find_library(Libtorch_gomp_LIBRARY NAMES libgomp.so.1 PATHS ${Libtorch_ROOT}/lib NO_DEFAULT_PATH)
  mark_as_advanced(Libtorch_gomp_LIBRARY)
  if(Libtorch_gomp_LIBRARY AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    target_compile_options(Libtorch::torch INTERFACE -fopenmp)
    target_link_libraries(Libtorch::torch INTERFACE ${Libtorch_gomp_LIBRARY})
  endif()
  # torch's own headers are C++20 since 2.12 and C++17 before; both build as C++20.
  target_compile_definitions(Libtorch::torch INTERFACE _GLIBCXX_USE_CXX11_ABI=1)
endif()
