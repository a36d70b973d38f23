# What --version says. The commit is looked up at every build (a file is written only when it changed), so that it is true
# without configuring again; in an archive made by `git archive`, which has no .git, it comes from commit.txt.
set(L4_GENERATED ${PROJECT_BINARY_DIR}/generated)
add_custom_target(l4_commit
  COMMAND ${CMAKE_COMMAND} -DSOURCE=${PROJECT_SOURCE_DIR} -DOUT=${L4_GENERATED}/commit.inc
          -P ${PROJECT_SOURCE_DIR}/scripts/cmake/write_commit.cmake
  BYPRODUCTS ${L4_GENERATED}/commit.inc
  COMMENT "Looking up the commit")
add_dependencies(l4host l4_commit)
set_source_files_properties(core/base/version.cpp PROPERTIES
  INCLUDE_DIRECTORIES ${L4_GENERATED}
  OBJECT_DEPENDS ${L4_GENERATED}/commit.inc
  COMPILE_DEFINITIONS "L4_VERSION=\"${PROJECT_VERSION}\";L4_BUILD_TYPE=\"${CMAKE_BUILD_TYPE}$<$<BOOL:${L4_SANITIZE}>:, sanitizers>\";L4_CUDA_VERSION=\"$<$<BOOL:${L4_WITH_CUDA}>:${CMAKE_CUDA_COMPILER_VERSION}>\"")
