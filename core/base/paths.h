// Where the suite finds its own files.
#pragma once

#include <filesystem>

namespace l4 {

// The running program's file, symlinks resolved.
std::filesystem::path executable_path();

// The built-in demo checkpoint: $L4_DEMO_DIR if set, else ../share/l4/demo beside the program (installed, or unpacked from a
// tarball), else `demo` beside it (a build directory links there to core/demo). The first that has a config.json; Error{io}
// naming the places looked at when none has, Error{usage} when $L4_DEMO_DIR is set and has none.
std::filesystem::path demo_model_dir();

}  // namespace l4
