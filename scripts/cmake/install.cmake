# `make install`: bin/l4 and its five names, share/l4/demo, the licence and the README.
# `make dist` (scripts/dist.sh) puts the shared libraries that are not the system's own into lib/ beside bin/. The rpath is the
# old kind (DT_RPATH) on purpose: it also serves those libraries' own dependencies, which DT_RUNPATH does not.
set_target_properties(l4 PROPERTIES INSTALL_RPATH "$ORIGIN/../lib")
target_link_options(l4 PRIVATE -Wl,--disable-new-dtags)

install(TARGETS l4 RUNTIME)
foreach(tool ${L4_TOOLS})
  install(CODE "file(CREATE_LINK l4 \"\$ENV{DESTDIR}\${CMAKE_INSTALL_PREFIX}/${CMAKE_INSTALL_BINDIR}/l4-${tool}\" SYMBOLIC)")
endforeach()
install(FILES LICENSE README.md DESTINATION ${CMAKE_INSTALL_DATADIR}/l4)
if(EXISTS ${PROJECT_SOURCE_DIR}/core/demo)
  install(DIRECTORY core/demo DESTINATION ${CMAKE_INSTALL_DATADIR}/l4)
endif()
