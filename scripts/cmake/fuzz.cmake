# The fuzzers of tests/fuzz: fuzz_NAME.cpp with the corpus tests/fuzz/corpus/NAME. `make fuzz` builds and runs them.
option(L4_FUZZ "Fuzzers, with clang's libFuzzer and the address and undefined behaviour sanitizers" OFF)
if(L4_FUZZ)
  # Without NDEBUG: assertions of the libraries count too.
  target_compile_options(l4_options INTERFACE -O1 -g -fsanitize=fuzzer-no-link,address,undefined
    -fno-sanitize-recover=undefined -fno-omit-frame-pointer -Wno-unknown-warning-option)
  target_link_options(l4_options INTERFACE -fsanitize=address,undefined)
  add_custom_target(fuzzers)
  file(GLOB fuzz_sources CONFIGURE_DEPENDS tests/fuzz/fuzz_*.cpp)
  foreach(source ${fuzz_sources})
    get_filename_component(name ${source} NAME_WE)
    add_executable(${name} EXCLUDE_FROM_ALL ${source})
    target_include_directories(${name} PRIVATE tests)
    target_link_libraries(${name} PRIVATE l4tools)
    target_link_options(${name} PRIVATE -fsanitize=fuzzer)
    add_dependencies(fuzzers ${name})
  endforeach()
  # clang 14 cannot write the coroutines of this file with sanitizers ("Cannot represent a difference across sections"); no fuzzer
  # comes to it: it is what asks other hosts.
  set_source_files_properties(${PROJECT_SOURCE_DIR}/tools/common/media/fetch.cpp PROPERTIES COMPILE_OPTIONS
    "-fno-sanitize=address,undefined,fuzzer-no-link")
endif()
