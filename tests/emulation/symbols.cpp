// Names of kernels, from the symbol table of the running program.
#include <cxxabi.h>
#include <elf.h>
#include <link.h>

#include <cstdlib>

#include "base/file.h"
#include "emulation/block.h"

namespace l4::emulation {

std::string kernel_name(const void* kernel) {
  uintptr_t base = 0;
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* out) {
        *static_cast<uintptr_t*>(out) = info->dlpi_addr;  // the program comes first
        return 1;
      },
      &base);
  const uintptr_t address = reinterpret_cast<uintptr_t>(kernel) - base;
  const std::string program = read_file("/proc/self/exe", size_t(1) << 31);
  const auto header = reinterpret_cast<const Elf64_Ehdr*>(program.data());
  const auto sections = reinterpret_cast<const Elf64_Shdr*>(program.data() + header->e_shoff);
  for (int i = 0; i < header->e_shnum; ++i) {
    if (sections[i].sh_type != SHT_SYMTAB) continue;
    const auto symbols = reinterpret_cast<const Elf64_Sym*>(program.data() + sections[i].sh_offset);
    const char* names = program.data() + sections[sections[i].sh_link].sh_offset;
    for (size_t s = 0; s < sections[i].sh_size / sizeof(Elf64_Sym); ++s) {
      if (symbols[s].st_value != address || ELF64_ST_TYPE(symbols[s].st_info) != STT_FUNC) continue;
      int status = 0;
      char* demangled = abi::__cxa_demangle(names + symbols[s].st_name, nullptr, nullptr, &status);
      std::string name = status == 0 ? demangled : names + symbols[s].st_name;
      std::free(demangled);
      // Without the parameters: they are long, and the template's are what tells kernels apart.
      size_t end = name.size(), depth = 0;
      if (!name.empty() && name.back() == ')')
        while (end > 0) {
          --end;
          if (name[end] == ')') ++depth;
          if (name[end] == '(' && --depth == 0) break;
        }
      name.resize(end ? end : name.size());
      return name.rfind("void ", 0) == 0 ? name.substr(5) : name;
    }
  }
  return "a kernel";
}

}  // namespace l4::emulation
