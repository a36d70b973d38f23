#include "grammar/token_masks.h"

#include <algorithm>
#include <bit>
#include <iterator>

namespace l4 {

TokenMasks::TokenMasks(const Automaton& automaton, const GrammarVocab& vocab)
    : graph(automaton, vocab.longest), vocab_(vocab) {}

namespace {
void set_bit(std::span<uint32_t> mask, int32_t id) {
  mask[size_t(id) / 32] |= 1u << (id % 32);
}
}  // namespace

void TokenMasks::fill(SetId set, std::span<uint32_t> mask) {
  std::fill(mask.begin(), mask.end(), 0);
  for (auto [local, caller] : graph.locals(set)) {
    const LocalMask& part = local_mask(local);
    for (size_t i = 0; i < part.bits.size(); ++i) mask[i] |= part.bits[i];
    for (int32_t id : part.ids) set_bit(mask, id);
    if (part.rests.empty()) continue;
    SetId after = graph.after_return(caller);
    if (after == ReadingGraph::kDead) continue;
    for (int32_t id : right_rests(local, part, after)) set_bit(mask, id);
  }
  if (!graph.may_end(set)) return;
  for (int32_t id : vocab_.eos_ids) set_bit(mask, id);
}

const TokenMasks::LocalMask& TokenMasks::local_mask(SetId local) {
  auto known = locals_.find(local);
  if (known != locals_.end()) return known->second;
  // In a string of at most 80 characters every place has a mask of its own; but most tokens are shorter than what is
  // left, and stand as if there were no end.
  constexpr uint32_t kShort = 8;
  auto [far, reach] = graph.far_from_counts(local);
  bool patch = far != local && reach >= kShort;
  LocalMask mask = finished(patch ? walk_long(local, local_mask(far), reach) : walk_all(local));
  bytes_ += sizeof(LocalMask) + 64 + 4 * (mask.bits.size() + mask.ids.size() + mask.rest_tokens.size()) +
            sizeof(Rest) * mask.rests.size();
  return locals_[local] = std::move(mask);
}

TokenMasks::Draft TokenMasks::walk_all(SetId local) {
  Draft draft{std::vector<uint32_t>((size_t(vocab_.size) + 31) / 32), {}};
  std::vector<SetId> sets(vocab_.longest + 1);
  std::vector<uint32_t> ends;  // depths on the way here at which the call may end
  sets[0] = local;
  for (uint32_t i = 0; i + 1 < vocab_.nodes.size();) {
    const GrammarVocab::Node& node = vocab_.nodes[i];
    while (!ends.empty() && ends.back() >= node.depth) ends.pop_back();
    SetId set = graph.next(sets[node.depth - 1], node.byte);
    if (set == ReadingGraph::kDead) {
      for (uint32_t token = node.tokens_begin; !ends.empty() && token < vocab_.nodes[node.end].tokens_begin; ++token) {
        for (uint32_t from : ends) draft.lefts.push_back({token, from});
      }
      i = node.end;
      continue;
    }
    sets[node.depth] = set;
    if (graph.leaves_unknown(set)) ends.push_back(node.depth);
    for (uint32_t token = node.tokens_begin; token < vocab_.nodes[i + 1].tokens_begin; ++token) {
      set_bit(draft.bits, vocab_.sorted[token]);
    }
    ++i;
  }
  std::sort(draft.lefts.begin(), draft.lefts.end(), [&](Left a, Left b) { return text_of(a) < text_of(b); });
  return draft;
}

// Tokens of more than `reach` bytes are read again, the others are as in the far set.
TokenMasks::Draft TokenMasks::walk_long(SetId local, const LocalMask& far, uint32_t reach) {
  Draft draft{far.bits, {}};
  draft.bits.resize((size_t(vocab_.size) + 31) / 32);
  for (int32_t id : far.ids) set_bit(draft.bits, id);
  std::vector<Left> kept, read;
  for (size_t i = 0; i < far.rests.size(); ++i) {
    size_t n_left = text_of(far.rests[i].left).size();
    for (size_t t = far.rests[i].tokens_begin; t < tokens_end(far, i); ++t) {
      uint32_t token = far.rest_tokens[t];
      size_t length = vocab_.text_of(token).size();
      if (length <= reach) kept.push_back({token, uint32_t(length - n_left)});
    }
  }
  std::vector<SetId> sets(vocab_.longest + 1);
  std::string_view before;
  size_t n_known = 0;  // sets[0 .. n_known] are those of the token before
  sets[0] = local;
  for (uint32_t token = 0; token < vocab_.sorted.size(); ++token) {
    if (vocab_.lengths[token] <= reach) continue;
    std::string_view text = vocab_.text_of(token);
    size_t common = size_t(std::mismatch(text.begin(), text.end(), before.begin(), before.end()).first - text.begin());
    before = text;
    size_t depth = std::min(common, n_known);
    for (; depth < text.size(); ++depth) {
      SetId set = common > n_known ? ReadingGraph::kDead : graph.next(sets[depth], uint8_t(text[depth]));
      if (set == ReadingGraph::kDead) break;
      sets[depth + 1] = set;
    }
    n_known = depth;
    int32_t id = vocab_.sorted[token];
    draft.bits[size_t(id) / 32] &= ~(1u << (id % 32));
    if (depth == text.size()) {
      set_bit(draft.bits, id);
      continue;
    }
    for (uint32_t from = 1; from <= depth; ++from) {
      if (graph.leaves_unknown(sets[from])) read.push_back({token, from});
    }
  }
  auto by_text = [&](Left a, Left b) { return text_of(a) < text_of(b); };
  std::sort(read.begin(), read.end(), by_text);
  std::merge(kept.begin(), kept.end(), read.begin(), read.end(), std::back_inserter(draft.lefts), by_text);
  return draft;
}

TokenMasks::LocalMask TokenMasks::finished(Draft draft) {
  LocalMask mask;
  std::string_view before;
  for (Left left : draft.lefts) {
    std::string_view text = text_of(left);
    if (text != before) {
      size_t common =
          size_t(std::mismatch(text.begin(), text.end(), before.begin(), before.end()).first - text.begin());
      mask.rests.push_back({left, uint32_t(common), uint32_t(mask.rest_tokens.size())});
      before = text;
    }
    mask.rest_tokens.push_back(left.token);
  }
  constexpr size_t kFew = 1024;
  size_t n_right = 0;
  for (uint32_t word : draft.bits) n_right += size_t(std::popcount(word));
  if (n_right > kFew) {
    mask.bits = std::move(draft.bits);
    return mask;
  }
  for (size_t word = 0; word < draft.bits.size(); ++word) {
    for (uint32_t left = draft.bits[word]; left != 0; left &= left - 1) {
      mask.ids.push_back(int32_t(word * 32) + std::countr_zero(left));
    }
  }
  return mask;
}

// Walks the rests in their order; what two neighbours share is read once, and what follows a dead beginning is skipped.
const std::vector<int32_t>& TokenMasks::right_rests(SetId local, const LocalMask& mask, SetId after) {
  uint64_t key = uint64_t(local) << 32 | after;
  auto known = right_rests_.find(key);
  if (known != right_rests_.end()) return known->second;
  std::vector<SetId> sets(vocab_.longest + 1);
  std::vector<int32_t> right;
  sets[0] = after;
  size_t n_known = 0;        // sets[0 .. n_known] are those of the rest before
  size_t dead = size_t(-1);  // length of its beginning that is dead
  for (size_t i = 0; i < mask.rests.size(); ++i) {
    const Rest& rest = mask.rests[i];
    if (rest.common >= dead) continue;
    dead = size_t(-1);
    std::string_view text = text_of(rest.left);
    size_t depth = std::min<size_t>(rest.common, n_known);
    for (; depth < text.size(); ++depth) {
      SetId set = graph.next(sets[depth], uint8_t(text[depth]));
      if (set == ReadingGraph::kDead) {
        dead = depth + 1;
        break;
      }
      sets[depth + 1] = set;
    }
    n_known = depth;
    if (dead != size_t(-1)) continue;
    for (size_t t = rest.tokens_begin; t < tokens_end(mask, i); ++t)
      right.push_back(vocab_.sorted[mask.rest_tokens[t]]);
  }
  bytes_ += 64 + 4 * right.size();
  return right_rests_[key] = std::move(right);
}

}  // namespace l4
