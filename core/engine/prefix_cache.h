// KV that was computed once and may serve again: a tree of pages.
//
// A node is one page of tokens behind its parent's: its ids, the pictures among them (digest, and which part of the
// picture lies here), and the pages with their KV. A salt has a tree of its own. All is compared itself, not a hash of
// it: a request never gets KV of other ids, of another picture that takes as many tokens, or of another salt. Weights
// and the cache's type need no place in the key: they are the engine's, and the tree lives no longer.
//
// For a beginning of p tokens the global layers need every page before p, the chunked layers those of p's attention
// chunk. So a node may have lost its chunked page: then a hit ends before it, or where its chunk begins. Within the
// last page a hit may end at any token. Pages are kept in the pools (BlockPool::keep) and go in the order in which they
// were released; a node that loses its global page goes with all behind it.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/sequence.h"

namespace l4 {

// A page's tokens; a picture's tokens are those of its id and of the picture.
struct PageKey {
  struct Picture {
    int32_t offset = 0;  // in the page, of its first token there
    int64_t index = 0;   // of that token among the picture's
    int64_t n_tiles = 0;
    std::array<uint8_t, 16> digest{};
    bool same(const Picture& other) const {
      return index == other.index && n_tiles == other.n_tiles && digest == other.digest;
    }
  };
  std::vector<int32_t> ids;       // at most page_tokens
  std::vector<Picture> pictures;  // by offset
};

class PrefixCache {
  struct Node;

 public:
  explicit PrefixCache(KvPools& pools);  // which call it from then on; outlived by them
  ~PrefixCache();
  PrefixCache(const PrefixCache&) = delete;
  PrefixCache& operator=(const PrefixCache&) = delete;

  // Gives a sequence without KV that of the longest beginning that is known, at most max_tokens of it. How many tokens.
  int64_t adopt(Sequence& sequence, const std::string& salt, int64_t max_tokens) const;

  // Where the pages of a sequence that are known end, so that insert() does not begin anew each time.
  class Cursor {
    friend class PrefixCache;
    std::weak_ptr<Node> node;
  };
  // What is committed is known from now on: full pages, with_tail also what the last one holds.
  void insert(const Sequence& sequence, const std::string& salt, Cursor& cursor, bool with_tail);
  // The sequence's pages are no good.
  void forget(const Sequence& sequence);

  void clear();

  int64_t n_nodes() const { return n_nodes_; }

 private:
  struct Order {
    bool operator()(const PageKey& a, const PageKey& b) const;
  };
  struct Node {
    Node* parent = nullptr;
    int64_t end = 0;  // tokens up to the end of this page
    const PageKey* key = nullptr;
    std::array<int32_t, kNumAttentionKinds> page = {-1, -1};
    std::string salt;  // of a root
    std::map<PageKey, std::shared_ptr<Node>, Order> children;
  };

  PageKey key_of(const Sequence& sequence, int64_t begin, int64_t end) const;
  void on_evict(AttentionKind kind, int32_t page);
  void drop(Node& node);
  void set_page(Node& node, AttentionKind kind, int32_t page);

  KvPools& pools_;
  std::map<std::string, std::shared_ptr<Node>> roots_;          // by salt
  std::array<std::vector<Node*>, kNumAttentionKinds> node_of_;  // by page
  int64_t n_nodes_ = 0;
};

}  // namespace l4
