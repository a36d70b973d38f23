#include "support/include_rule.h"

#include <fnmatch.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <optional>
#include <set>

#include "base/strings.h"

namespace l4::test {

namespace {

namespace fs = std::filesystem;

// A module is core/X ("base"), the facade core/l4.{h,cpp} ("l4"), kernels/X, tools/X, or tools' own main ("tools").
// Each may include itself and what is listed; "tools/common" and below: every tool.
const std::map<std::string, std::set<std::string>> kMayInclude = {
    {"base", {}},
    {"tensor", {"base"}},
    {"quant", {"base", "tensor"}},
    {"formats", {"base", "tensor", "quant"}},
    {"ops", {"base", "tensor", "quant", "formats"}},
    {"dist", {"base", "tensor", "quant", "formats", "ops"}},
    {"model", {"base", "tensor", "quant", "formats", "ops", "dist"}},
    {"engine", {"base", "tensor", "quant", "formats", "ops", "dist", "model"}},
    {"text", {"base", "tensor", "quant", "formats"}},
    {"grammar", {"base", "tensor", "formats"}},
    {"vision", {"base", "tensor", "quant", "formats"}},
    {"l4", {"base", "tensor", "quant", "formats", "ops", "dist", "model", "engine", "text", "grammar", "vision"}},
    {"kernels/cpu", {"base", "tensor", "quant", "ops"}},
    {"kernels/cuda", {"base", "tensor", "quant", "ops"}},
};
const std::set<std::string> kCore = {"base", "tensor", "quant", "formats", "ops",    "dist",
                                     "model", "engine", "text", "grammar", "vision", "l4"};

// Single headers of a module that is otherwise out of reach.
const std::map<std::string, std::set<std::string>> kMayIncludeFile = {
    {"text", {"model/config.h"}},
    {"vision", {"model/config.h"}},
    {"kernels/cpu", {"dist/comm.h"}},
    {"kernels/cuda", {"dist/comm.h"}},
};

// Heavy or foreign headers, each with the files that own it: .cpp files, so that nobody gets one by the way.
using Patterns = std::vector<const char*>;  // of the shell's kind; in owners * does not cross a /
struct Owned {
  Patterns headers, owners;
};
const std::vector<Owned> kOwned = {
    {{"CLI/*"}, {"tools/*/main.cpp", "tools/common/flags*.cpp"}},
    {{"nlohmann/*"}, {"core/formats/json.cpp"}},
    {{"stb/*", "stb_*", "webp/*"}, {"core/vision/image*.cpp", "tools/common/png_canvas.cpp"}},
    {{"sentencepiece*", "pcre2*"}, {"core/text/*.cpp"}},
    {{"editline/*", "histedit.h"}, {"tools/*/*.cpp"}},
    {{"boost/*"}, {"tools/serve/http/*", "tools/common/media/fetch.cpp", "tools/common/http_client.cpp"}},
    {{"openssl/*"}, {"tools/serve/http/*.cpp", "tools/common/media/fetch.cpp", "tools/common/http_client*.cpp"}},
    {{"cuda*", "cublas*", "curand*", "cusparse*", "cusolver*", "cufft*", "cupti*", "cudnn*", "nccl*", "nv*.h", "mma.h",
      "driver_types.h", "vector_types.h", "cooperative_groups*", "cuda/*", "cub/*", "thrust/*",
      "cute/*", "cutlass/*"},
     {"kernels/cuda/*", "kernels/cuda/*/*"}},
};

bool matches(const std::string& path, const Patterns& patterns, int flags) {
  for (const char* pattern : patterns)
    if (fnmatch(pattern, path.c_str(), flags) == 0) return true;
  return false;
}

std::string module_of_core(const std::string& path) {  // "formats/json.h", "l4.h"
  const size_t slash = path.find('/');
  return slash == std::string::npos ? path.substr(0, path.find('.')) : path.substr(0, slash);
}

std::string module_of(const std::string& path) {  // from the root: "core/formats/json.h"
  const std::vector<std::string> parts = split(path, '/');
  if (parts[0] == "core") return module_of_core(path.substr(5));
  return parts.size() > 2 ? parts[0] + "/" + parts[1] : parts[0];
}

bool allowed(const std::string& from, const std::string& to) {
  if (from == to) return true;
  if (from.rfind("tools", 0) == 0)  // a tool: all of core, what tools share, never another tool or a kernel
    return kCore.count(to) || to == "tools/common" || (to == "tools" && from != "tools/common");
  const auto row = kMayInclude.find(from);
  return row != kMayInclude.end() && row->second.count(to);
}

// What is wrong with `file` (from the root) including `header`, or an empty string.
std::string objection(const fs::path& root, const std::string& file, const std::string& header, bool quoted) {
  for (const Owned& owned : kOwned) {
    if (!matches(header, owned.headers, 0)) continue;
    if (matches(file, owned.owners, FNM_PATHNAME)) return "";
    return cat("only ", join({owned.owners.begin(), owned.owners.end()}, ", "), " may include <", header, ">");
  }
  const bool in_core = header.find("..") == std::string::npos && fs::is_regular_file(root / "core" / header);
  const bool in_root = !in_core && fs::is_regular_file(root / header) &&
                       (header.rfind("kernels/", 0) == 0 || header.rfind("tools/", 0) == 0);
  if (!in_core && !in_root)
    return quoted ? cat("\"", header, "\" is neither a file under core/ nor one of kernels/ or tools/ named from the root") : "";
  if (!quoted) return cat("<", header, "> is a header of ours: write it in quotes");
  const std::string from = module_of(file);
  const std::string to = in_core ? module_of_core(header) : module_of(header);
  const auto single = kMayIncludeFile.find(from);
  if (allowed(from, to) || (single != kMayIncludeFile.end() && single->second.count(header))) return "";
  if (!kMayInclude.count(from) && from.rfind("tools", 0) != 0)
    return cat(from, " is not a module that the include rule knows (tests/support/include_rule.cpp)");
  return cat(from, " may not include ", to, " (", header, ")");
}

struct Include {
  std::string header;
  bool quoted;
};

std::optional<Include> parse_include(std::string_view line) {
  for (std::string_view word : {"#", "include"}) {
    line = trim(line);
    if (line.substr(0, word.size()) != word) return std::nullopt;
    line.remove_prefix(word.size());
  }
  line = trim(line);
  if (line.empty() || (line[0] != '"' && line[0] != '<')) return std::nullopt;
  const bool quoted = line[0] == '"';
  const size_t end = line.find(quoted ? '"' : '>', 1);
  if (end == std::string_view::npos) return std::nullopt;
  return Include{std::string(line.substr(1, end - 1)), quoted};
}

int g_files_checked = 0;

}  // namespace

int files_checked() {
  return g_files_checked;
}

std::vector<std::string> include_violations(const fs::path& root) {
  static const std::set<std::string> kSuffixes = {".h", ".hpp", ".cpp", ".cu", ".cuh", ".inc"};
  std::vector<std::string> out;
  g_files_checked = 0;
  for (const char* top : {"core", "kernels", "tools"}) {
    if (!fs::is_directory(root / top)) continue;
    for (const auto& entry : fs::recursive_directory_iterator(root / top)) {
      if (!entry.is_regular_file() || !kSuffixes.count(entry.path().extension().string())) continue;
      ++g_files_checked;
      const std::string file = entry.path().lexically_relative(root).generic_string();
      std::ifstream in(entry.path());
      std::string line;
      for (int number = 1; std::getline(in, line); ++number) {
        const std::optional<Include> include = parse_include(line);
        if (!include || include->header == "commit.inc" || include->header == "page.inc") continue;  // generated
        if (const std::string what = objection(root, file, include->header, include->quoted); !what.empty())
          out.push_back(cat(file, ":", number, ": ", what));
      }
    }
  }
  std::sort(out.begin(), out.end());
  return out;
}

}  // namespace l4::test
