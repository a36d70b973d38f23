// What a piece of code writes to stderr (file descriptor 2), as text.
#pragma once

#include <functional>
#include <string>

namespace l4::test {

std::string stderr_of(const std::function<void()>& body);

}  // namespace l4::test
