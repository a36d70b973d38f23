// -o FILE, where the ending says what is written.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "formats/json.h"
#include "tools/common/flags.h"

namespace l4::eval {

// -o, --out; may be repeated. Error{usage} for another ending than .json, .md and .html.
void add_output_flag(tools::Flags& flags, std::vector<fs::path>& to, const std::string& help);

struct Writers {
  std::function<Json()> json;
  std::function<std::string()> markdown, html;
};
void write_output(const fs::path& path, const Writers& writers);

}  // namespace l4::eval
