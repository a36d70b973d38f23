# The web page goes into the program: tools/serve/page/page.cpp includes it as a string.
set(page_source ${PROJECT_SOURCE_DIR}/tools/serve/page/index.html)
set(page_literal ${PROJECT_BINARY_DIR}/generated/page.inc)
add_custom_command(
  OUTPUT ${page_literal}
  COMMAND ${CMAKE_COMMAND} -DIN=${page_source} -DOUT=${page_literal} -P ${PROJECT_SOURCE_DIR}/scripts/cmake/embed.cmake
  DEPENDS ${page_source} ${PROJECT_SOURCE_DIR}/scripts/cmake/embed.cmake
  COMMENT "Embedding the web page")
target_sources(l4tools PRIVATE ${page_literal})
set_source_files_properties(tools/serve/page/page.cpp PROPERTIES
  INCLUDE_DIRECTORIES ${PROJECT_BINARY_DIR}/generated
  OBJECT_DEPENDS ${page_literal})
