// l4-serve put together: HTTP, API, pictures and engine, from flags to the last answer.
#pragma once

#include "tools/serve/flags.h"

namespace l4::serve {

// Listens, loads, serves until a signal, drains. The exit status: 0, 1 when requests were cut off or the device failed,
// 128 + a signal's number after a second one. Throws what loading throws.
int run_service(const ServeOptions& options);

// What will be served, a line each, for people: model, formats, context, KV pages, concurrency, limits.
std::vector<std::string> describe_service(const ServeOptions& options, const Engine& engine);

}  // namespace l4::serve
