#include "tools/eval/output_file.h"

namespace l4::eval {

void add_output_flag(tools::Flags& flags, std::vector<fs::path>& to, const std::string& help) {
  flags.list("-o,--out", "FILE", help, [&to](const std::string& name) {
    const std::string ending = fs::path(name).extension().string();
    if (ending != ".json" && ending != ".md" && ending != ".html")
      tools::wrong_value("a file that ends in .json, .md or .html", name);
    to.emplace_back(name);
  });
}

void write_output(const fs::path& path, const Writers& writers) {
  const std::string ending = path.extension().string();
  write_file_atomic(path, ending == ".json" ? dump_json(writers.json(), JsonStyle::python, 2) + "\n"
                          : ending == ".md" ? writers.markdown()
                                            : writers.html());
}

}  // namespace l4::eval
