# `make install`: bin/l4 and its five names, share/l4/demo, the licence. `make dist` (L4_BUNDLE=ON) adds lib/ with the
# shared libraries that are not the system's own. The rpath is the old kind (DT_RPATH) on purpose: it also serves the
# libraries' own dependencies, which DT_RUNPATH does not, and it leaves the bundled files as their packages have them.
option(L4_BUNDLE "Find shared libraries in ../lib beside the program" OFF)
if(L4_BUNDLE)
  set_target_properties(l4 PROPERTIES INSTALL_RPATH "$ORIGIN/../lib")
  target_link_options(l4 PRIVATE -Wl,--disable-new-dtags)
endif()

install(TARGETS l4 RUNTIME)
foreach(tool ${L4_TOOLS})
  install(CODE "execute_process(COMMAND ${CMAKE_COMMAND} -E create_symlink l4
    \"\$ENV{DESTDIR}\${CMAKE_INSTALL_PREFIX}/${CMAKE_INSTALL_BINDIR}/l4-${tool}\")")
endforeach()
install(FILES LICENSE README.md DESTINATION ${CMAKE_INSTALL_DATADIR}/l4)
if(EXISTS ${PROJECT_SOURCE_DIR}/core/demo)
  install(DIRECTORY core/demo DESTINATION ${CMAKE_INSTALL_DATADIR}/l4)
endif()
