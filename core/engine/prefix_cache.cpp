#include "engine/prefix_cache.h"

#include <algorithm>
#include <tuple>

namespace l4 {

namespace {

constexpr AttentionKind kKinds[] = {AttentionKind::chunked, AttentionKind::global};

// How many tokens both begin with.
int64_t common_tokens(const PageKey& a, const PageKey& b) {
  const size_t n = std::min(a.ids.size(), b.ids.size());
  int64_t same = std::mismatch(a.ids.begin(), a.ids.begin() + int64_t(n), b.ids.begin()).first - a.ids.begin();
  for (size_t i = 0; i < a.pictures.size() || i < b.pictures.size(); ++i) {
    const bool in_both = i < a.pictures.size() && i < b.pictures.size();
    if (in_both && a.pictures[i].offset == b.pictures[i].offset && a.pictures[i].same(b.pictures[i])) continue;
    int64_t offset = INT64_MAX;  // of the first token that is another picture's
    if (i < a.pictures.size()) offset = a.pictures[i].offset;
    if (i < b.pictures.size()) offset = std::min<int64_t>(offset, b.pictures[i].offset);
    return std::min(same, offset);
  }
  return same;
}

// The picture whose tokens begin at `offset`, if any.
const PageKey::Picture* picture_at(const PageKey& key, int64_t offset) {
  for (const PageKey::Picture& picture : key.pictures)
    if (picture.offset == offset) return &picture;
  return nullptr;
}

}  // namespace

// As texts are ordered, token by token: so that the key which shares most with another one is its neighbour.
bool PrefixCache::Order::operator()(const PageKey& a, const PageKey& b) const {
  const size_t n = size_t(common_tokens(a, b));
  if (n == a.ids.size() || n == b.ids.size()) return a.ids.size() < b.ids.size();
  if (a.ids[n] != b.ids[n]) return a.ids[n] < b.ids[n];
  // One id, two pictures.
  const PageKey::Picture *of_a = picture_at(a, int64_t(n)), *of_b = picture_at(b, int64_t(n));
  if (!of_a || !of_b) return !of_a && of_b;
  return std::tie(of_a->index, of_a->n_tiles, of_a->digest) < std::tie(of_b->index, of_b->n_tiles, of_b->digest);
}

PrefixCache::PrefixCache(KvPools& pools) : pools_(pools) {
  for (AttentionKind kind : kKinds) node_of_[size_t(kind)].resize(size_t(pools.pool.n_pages(kind)), nullptr);
  pools.pool.on_evict = [this](AttentionKind kind, int32_t page) { on_evict(kind, page); };
}

PrefixCache::~PrefixCache() {
  clear();
  pools_.pool.on_evict = {};
}

void PrefixCache::clear() {
  while (!roots_.empty()) {
    Node& root = *roots_.begin()->second;
    if (root.children.empty())
      roots_.erase(roots_.begin());
    else
      drop(*root.children.begin()->second);
  }
}

PageKey PrefixCache::key_of(const Sequence& sequence, int64_t begin, int64_t end) const {
  PageKey key;
  key.ids.assign(sequence.ids().begin() + begin, sequence.ids().begin() + end);
  for (const SequenceImage& image : sequence.images()) {
    const auto first = std::lower_bound(image.positions.begin(), image.positions.end(), begin);
    if (first == image.positions.end()) continue;
    if (*first >= end) break;
    key.pictures.push_back(
        {int32_t(*first - begin), first - image.positions.begin(), image.input.n_tiles, image.input.digest});
  }
  return key;
}

// ---- finding --------------------------------------------------------------------------------------------------------

int64_t PrefixCache::adopt(Sequence& sequence, const std::string& salt, int64_t max_tokens) const {
  const auto root = roots_.find(salt);
  if (root == roots_.end()) return 0;
  const int64_t page_tokens = pools_.page_tokens, end = std::min(max_tokens, sequence.length());
  std::vector<const Node*> path;
  int64_t n = 0;
  for (const Node* at = root->second.get(); n < end;) {
    const PageKey key = key_of(sequence, n, std::min(n + page_tokens, end));
    auto next = at->children.lower_bound(key);
    int64_t most = 0;
    const Node* best = nullptr;
    auto consider = [&](auto candidate) {
      const int64_t common = common_tokens(candidate->first, key);
      if (common > most) most = common, best = candidate->second.get();
    };
    if (next != at->children.end()) consider(next);
    if (next != at->children.begin()) consider(std::prev(next));
    if (!best) break;
    path.push_back(best);
    n += most;
    if (most < page_tokens) break;
    at = best;
  }

  // As far as the chunk that it ends in has its chunked pages.
  const int64_t chunk_start = pools_.chunk_start(n);
  std::vector<int32_t> global, chunked;
  for (int64_t begin = chunk_start; begin < n; begin += page_tokens) {
    const int32_t page = path[size_t(begin / page_tokens)]->page[size_t(AttentionKind::chunked)];
    if (page < 0)
      n = begin;
    else
      chunked.push_back(page);
  }
  for (int64_t begin = 0; begin < n; begin += page_tokens)
    global.push_back(path[size_t(begin / page_tokens)]->page[size_t(AttentionKind::global)]);
  if (n > 0) sequence.adopt(n, global, chunked);
  return n;
}

// ---- keeping --------------------------------------------------------------------------------------------------------

void PrefixCache::set_page(Node& node, AttentionKind kind, int32_t page) {
  node.page[size_t(kind)] = page;
  node_of_[size_t(kind)][size_t(page)] = &node;
  pools_.pool.keep(kind, page, int32_t(node.key->ids.size()));
}

void PrefixCache::insert(const Sequence& sequence, const std::string& salt, Cursor& cursor, bool with_tail) {
  const int64_t page_tokens = pools_.page_tokens, known = sequence.n_committed();
  const Sequence::PageTable& global = sequence.table(AttentionKind::global);
  const Sequence::PageTable& chunked = sequence.table(AttentionKind::chunked);
  std::shared_ptr<Node> at = cursor.node.lock();
  if ((at ? at->end : 0) + (with_tail ? 1 : page_tokens) > known) return;
  if (!at) {
    std::shared_ptr<Node>& root = roots_[salt];
    if (!root) root = std::make_shared<Node>(), root->salt = salt;
    at = root;
  }
  while (at->end < known) {
    const int64_t begin = at->end, end = std::min(begin + page_tokens, known);
    const bool is_full = end - begin == page_tokens;
    if (!is_full && !with_tail) break;
    PageKey key = key_of(sequence, begin, end);
    const int32_t page = global.pages[size_t(begin / page_tokens)];
    auto child = at->children.find(key);
    if (child == at->children.end() && !is_full) {  // a longer page that begins so serves as well
      const auto longer = at->children.lower_bound(key);
      if (longer != at->children.end() && common_tokens(longer->first, key) == end - begin &&
          longer->second->page[size_t(AttentionKind::chunked)] >= 0)
        break;
    }
    if (child == at->children.end()) {
      // Known as an end that has grown meanwhile, or new. A page that is known elsewhere cannot be here too.
      Node* before = node_of_[size_t(AttentionKind::global)][size_t(page)];
      if (before && before->parent != at.get()) break;
      if (before) {
        if (common_tokens(*before->key, key) < int64_t(before->key->ids.size())) break;
        auto entry = at->children.extract(*before->key);
        entry.key() = std::move(key);
        child = at->children.insert(std::move(entry)).position;
        child->second->key = &child->first;
      } else {
        child = at->children.emplace(std::move(key), std::make_shared<Node>()).first;
        child->second->parent = at.get();
        child->second->key = &child->first;
        ++n_nodes_;
      }
      Node& node = *child->second;
      node.end = end;
      set_page(node, AttentionKind::global, page);
      if (const int32_t own = node.page[size_t(AttentionKind::chunked)]; own >= 0)
        set_page(node, AttentionKind::chunked, own);
    }
    Node& node = *child->second;
    if (node.page[size_t(AttentionKind::chunked)] < 0 && begin >= chunked.begin) {
      const int32_t local = chunked.pages[size_t((begin - chunked.begin) / page_tokens)];
      if (!node_of_[size_t(AttentionKind::chunked)][size_t(local)]) set_page(node, AttentionKind::chunked, local);
    }
    if (!is_full) break;
    at = child->second;
  }
  cursor.node = at;
  if (at->children.empty() && !at->parent) roots_.erase(salt);
}

// ---- forgetting -----------------------------------------------------------------------------------------------------

void PrefixCache::on_evict(AttentionKind kind, int32_t page) {
  Node& node = *node_of_[size_t(kind)][size_t(page)];
  if (kind == AttentionKind::global) return drop(node);
  node.page[size_t(kind)] = -1;
  node_of_[size_t(kind)][size_t(page)] = nullptr;
  pools_.pool.unkeep(kind, page);
}

// A prefix may be ten thousands of pages long: no recursion.
void PrefixCache::drop(Node& node) {
  Node* parent = node.parent;
  std::vector<std::shared_ptr<Node>> dropped{std::move(parent->children.extract(*node.key).mapped())};
  for (size_t i = 0; i < dropped.size(); ++i) {
    for (auto& [key, child] : dropped[i]->children) dropped.push_back(std::move(child));
    dropped[i]->children.clear();
    for (AttentionKind kind : kKinds) {
      const int32_t page = dropped[i]->page[size_t(kind)];
      if (page < 0) continue;
      node_of_[size_t(kind)][size_t(page)] = nullptr;
      pools_.pool.unkeep(kind, page);
    }
  }
  n_nodes_ -= int64_t(dropped.size());
  if (!parent->parent && parent->children.empty()) roots_.erase(std::string(parent->salt));
}

void PrefixCache::forget(const Sequence& sequence) {
  for (AttentionKind kind : kKinds)
    for (int32_t page : sequence.table(kind).pages)
      if (node_of_[size_t(kind)][size_t(page)]) pools_.pool.evict(kind, page);
}

}  // namespace l4
