#include "text/bpe.h"

#include <algorithm>
#include <functional>

#include "base/error.h"

namespace l4 {

namespace {
constexpr uint32_t kNoRank = ~uint32_t(0);

size_t spread(uint64_t key) {
  key *= 0x9E3779B97F4A7C15ull;  // 2^64 / golden ratio: high bits depend on all of the key
  return size_t(key >> 20);
}
uint64_t pair_of(int32_t left, int32_t right) {
  return uint64_t(uint32_t(left)) << 32 | uint32_t(right);
}
}  // namespace

bool BpeModel::add_token(int32_t id, std::string bytes) {
  if (id < 0 || bytes.empty()) return false;
  if (size_t(id) >= tokens_.size()) tokens_.resize(size_t(id) + 1);
  if (!tokens_[size_t(id)].empty() || !id_of_.emplace(bytes, id).second) return false;
  if (bytes.size() == 1) byte_id_[static_cast<unsigned char>(bytes[0])] = id;
  tokens_[size_t(id)] = std::move(bytes);
  return true;
}

bool BpeModel::add_merge(std::string_view left, std::string_view right, uint32_t rank) {
  int32_t left_id = find(left), right_id = find(right);
  if (left_id < 0 || right_id < 0) return false;
  std::string both(left);
  both += right;
  int32_t id = find(both);
  if (id < 0) return false;
  put_merge({pair_of(left_id, right_id), rank, id});
  return true;
}

void BpeModel::merge_by_id() {
  for (int32_t id = 0; id < n_ids(); ++id) {
    std::string_view whole = bytes(id);
    for (size_t cut = 1; cut < whole.size(); ++cut) {
      int32_t left = find(whole.substr(0, cut));
      if (left < 0) continue;
      int32_t right = find(whole.substr(cut));
      if (right >= 0) put_merge({pair_of(left, right), uint32_t(id), id});
    }
  }
}

int BpeModel::missing_byte() const {
  for (int b = 0; b < 256; ++b)
    if (byte_id_[size_t(b)] < 0) return b;
  return -1;
}

int32_t BpeModel::find(std::string_view bytes) const {
  auto it = id_of_.find(bytes);
  return it == id_of_.end() ? -1 : it->second;
}

std::string_view BpeModel::bytes(int32_t id) const {
  return id >= 0 && id < n_ids() ? std::string_view(tokens_[size_t(id)]) : std::string_view();
}

void BpeModel::grow_merges(size_t n_slots) {
  std::vector<Merge> old(n_slots);
  old.swap(merges_);
  n_merges_ = 0;
  for (const Merge& merge : old)
    if (merge.pair != kNoPair) put_merge(merge);
}

void BpeModel::put_merge(const Merge& merge) {
  if (n_merges_ * 2 >= merges_.size()) grow_merges(std::max<size_t>(1024, merges_.size() * 2));
  size_t mask = merges_.size() - 1;
  for (size_t slot = spread(merge.pair) & mask;; slot = (slot + 1) & mask) {
    if (merges_[slot].pair == kNoPair) ++n_merges_;
    if (merges_[slot].pair == kNoPair || merges_[slot].pair == merge.pair) {
      merges_[slot] = merge;
      return;
    }
  }
}

const BpeModel::Merge* BpeModel::find_merge(int32_t left, int32_t right) const {
  if (merges_.empty()) return nullptr;
  uint64_t pair = pair_of(left, right);
  size_t mask = merges_.size() - 1;
  for (size_t slot = spread(pair) & mask; merges_[slot].pair != kNoPair; slot = (slot + 1) & mask)
    if (merges_[slot].pair == pair) return &merges_[slot];
  return nullptr;
}

// The parts of the piece form a doubly linked list over the positions of their first bytes; the heap holds rank << 32 |
// position for every adjacent pair that can merge. An entry whose pair has changed meanwhile no longer agrees with
// rank[position] and is passed over.
void BpeModel::encode(std::string_view piece, std::vector<int32_t>& ids, Scratch& s) const {
  if (piece.empty()) return;
  if (whole_pieces_ || piece.size() == 1) {
    if (int32_t id = find(piece); id >= 0) {
      ids.push_back(id);
      return;
    }
  }
  if (piece.size() > kMaxPieceBytes)
    fail(ErrorKind::usage, "text: one word of ", piece.size(), " bytes is too long to tokenise");

  const int32_t n = int32_t(piece.size());
  s.id.resize(piece.size());
  s.next.resize(piece.size());
  s.previous.resize(piece.size());
  s.rank.assign(piece.size(), kNoRank);
  s.heap.clear();
  for (int32_t i = 0; i < n; ++i) {
    s.id[size_t(i)] = byte_id_[static_cast<unsigned char>(piece[size_t(i)])];
    s.next[size_t(i)] = i + 1;
    s.previous[size_t(i)] = i - 1;
  }
  auto rank_pair = [&](int32_t at) {  // the pair that starts at `at`, if any, gets its rank; true when it can merge
    int32_t right = s.next[size_t(at)];
    const Merge* merge = right < n ? find_merge(s.id[size_t(at)], s.id[size_t(right)]) : nullptr;
    s.rank[size_t(at)] = merge ? merge->rank : kNoRank;
    if (merge) s.heap.push_back(uint64_t(merge->rank) << 32 | uint32_t(at));
    return merge != nullptr;
  };
  for (int32_t i = 0; i + 1 < n; ++i) rank_pair(i);
  std::make_heap(s.heap.begin(), s.heap.end(), std::greater<>());

  while (!s.heap.empty()) {
    std::pop_heap(s.heap.begin(), s.heap.end(), std::greater<>());
    uint64_t lowest = s.heap.back();
    s.heap.pop_back();
    int32_t at = int32_t(uint32_t(lowest));
    if (s.rank[size_t(at)] != uint32_t(lowest >> 32)) continue;
    int32_t right = s.next[size_t(at)];
    s.id[size_t(at)] = find_merge(s.id[size_t(at)], s.id[size_t(right)])->id;
    s.rank[size_t(right)] = kNoRank;
    int32_t after = s.next[size_t(right)];
    s.next[size_t(at)] = after;
    if (after < n) s.previous[size_t(after)] = at;
    if (rank_pair(at)) std::push_heap(s.heap.begin(), s.heap.end(), std::greater<>());
    int32_t before = s.previous[size_t(at)];
    if (before >= 0 && rank_pair(before)) std::push_heap(s.heap.begin(), s.heap.end(), std::greater<>());
  }
  for (int32_t i = 0; i < n; i = s.next[size_t(i)]) ids.push_back(s.id[size_t(i)]);
}

}  // namespace l4
