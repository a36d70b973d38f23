// The vocabulary as a tree of bytes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace l4 {

struct GrammarVocab {
  // The tree's nodes in the order of a depth-first walk; a node stands for the bytes on the way to it.
  struct Node {
    uint8_t byte;
    uint32_t depth;         // bytes on the way to it, its own included
    uint32_t end;           // the first node that is not below it
    uint32_t tokens_begin;  // in `sorted`; its own tokens go up to the next node's first, its subtree's to nodes[end]'s
  };

  int32_t size = 0;  // largest id + 1
  uint32_t longest = 0;
  std::vector<int32_t> eos_ids;
  std::vector<std::string> bytes;  // by id; empty for special tokens and padding
  std::vector<int32_t> sorted;     // ids of tokens that are text, by their bytes
  std::vector<uint16_t> lengths;   // of the bytes of sorted[place], at most 65535
  std::vector<Node> nodes;         // and one more that ends the last

  bool is_eos(int32_t id) const;
  std::string_view text_of(size_t place) const { return bytes[size_t(sorted[place])]; }
};

}  // namespace l4
