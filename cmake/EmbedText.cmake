# kvtool_embed_text(TARGET NAMESPACE ns FILES file...)
# Compiles text files into TARGET, as `extern const std::string_view` variables of
# the C++ namespace `ns`, named after the file with '.' as '_': report.css becomes
# ns::report_css. The file is read at build time; editing it rebuilds the target.
#
# Run as a script (cmake -P) this file writes one such source.
if(CMAKE_SCRIPT_MODE_FILE)
  file(READ "${INPUT}" text)
  set(delimiter kvtool_text)
  string(FIND "${text}" ")${delimiter}\"" position)
  if(NOT position EQUAL -1)
    message(FATAL_ERROR "${INPUT} holds the end of a raw string: )${delimiter}\"")
  endif()
  file(WRITE "${OUTPUT}" "#include <string_view>\n\nnamespace ${NAMESPACE} {\n"
    "extern const std::string_view ${NAME};\n"
    "const std::string_view ${NAME} = R\"${delimiter}(${text})${delimiter}\";\n"
    "}  // namespace ${NAMESPACE}\n")
  return()
endif()

set(KVTOOL_EMBED_TEXT_SCRIPT "${CMAKE_CURRENT_LIST_FILE}")

function(kvtool_embed_text target)
  cmake_parse_arguments(EMBED "" "NAMESPACE" "FILES" ${ARGN})
  foreach(file IN LISTS EMBED_FILES)
    get_filename_component(input "${file}" ABSOLUTE)
    get_filename_component(name "${file}" NAME)
    string(REPLACE "." "_" variable "${name}")
    set(output "${CMAKE_CURRENT_BINARY_DIR}/embedded/${name}.cc")
    add_custom_command(OUTPUT "${output}"
      COMMAND "${CMAKE_COMMAND}" "-DINPUT=${input}" "-DOUTPUT=${output}" "-DNAME=${variable}"
        "-DNAMESPACE=${EMBED_NAMESPACE}" -P "${KVTOOL_EMBED_TEXT_SCRIPT}"
      DEPENDS "${input}" "${KVTOOL_EMBED_TEXT_SCRIPT}"
      COMMENT "Embedding ${file}"
      VERBATIM)
    target_sources(${target} PRIVATE "${output}")
  endforeach()
endfunction()
