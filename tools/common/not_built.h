// For a tool whose name is taken and whose work is not written yet: answers --version and --help, refuses all else.
#pragma once

namespace l4::tools {

int not_built(const char* program, int argc, char** argv);

}  // namespace l4::tools
