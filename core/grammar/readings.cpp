#include "grammar/readings.h"

#include <algorithm>

#include "base/error.h"
#include "grammar/limits.h"

namespace l4 {

ReadingGraph::ReadingGraph(const Automaton& automaton, uint32_t longest_token)
    : automaton_(automaton), longest_token_(longest_token), seen_(64), seen_in_(64, 0) {
  for (int byte = 255; byte >= 0; --byte) class_byte_[automaton.byte_class[size_t(byte)]] = uint8_t(byte);
  frames_ = {{0, 0, kBottom}, {0, 0, kUnknown}};
  sets_.push_back({0, 0});  // number 0 is "not known"
  next_.resize(automaton.n_byte_classes, 0);
  L4_CHECK(set_of_found() == kDead);
  std::fill(next_.begin(), next_.end(), kDead);
}

SetId ReadingGraph::start() {
  push(automaton_.start, kBottom);
  return close();
}

FrameId ReadingGraph::frame(Frame f) {
  auto [place, is_new] = frame_ids_.try_emplace(f, FrameId(frames_.size()));
  if (is_new) frames_.push_back(f);
  return place->second;
}

SetId ReadingGraph::find_next(SetId set, uint32_t byte_class) {
  uint8_t byte = class_byte_[byte_class];
  for (Reading r : readings(set)) {
    StateId state = StateId(r >> 32);
    if (state == kEnded) continue;
    const Automaton::State& at = automaton_.states[state];
    for (uint32_t i = at.edges_begin; i < at.edges_end; ++i) {
      const Automaton::Edge& edge = automaton_.edges[i];
      if (edge.kind == Automaton::EdgeKind::bytes && edge.first <= byte && byte <= edge.last) {
        push(edge.target, FrameId(r));
      }
    }
  }
  SetId found = close();
  next_[size_t(set) * automaton_.n_byte_classes + byte_class] = found;
  return found;
}

bool ReadingGraph::see(Reading r) {
  if (n_seen_ * 2 >= seen_.size()) {
    std::vector<Reading> old = std::move(seen_);
    std::vector<uint32_t> old_in = std::move(seen_in_);
    seen_.assign(old.size() * 2, 0);
    seen_in_.assign(old.size() * 2, 0);
    n_seen_ = 0;
    for (size_t i = 0; i < old.size(); ++i) {
      if (old_in[i] == seen_round_) see(old[i]);
    }
  }
  size_t mask = seen_.size() - 1;
  for (size_t i = (r * 0x9E3779B97F4A7C15u >> 24) & mask;; i = (i + 1) & mask) {
    if (seen_in_[i] != seen_round_) {
      seen_in_[i] = seen_round_;
      seen_[i] = r;
      ++n_seen_;
      return true;
    }
    if (seen_[i] == r) return false;
  }
}

void ReadingGraph::push(StateId state, FrameId frame) {
  pending_.push_back(reading(state, frame));
}

SetId ReadingGraph::close() {
  ++seen_round_;
  n_seen_ = 0;
  found_.clear();
  while (!pending_.empty()) {
    Reading r = pending_.back();
    pending_.pop_back();
    if (!see(r)) continue;
    if (--work_left_ < 0 || n_seen_ > 8 * grammar_limits::kMaxReadings ||
        found_.size() > grammar_limits::kMaxReadings) {
      pending_.clear();
      found_.clear();
      fail(ErrorKind::usage, "the grammar is too ambiguous: too many ways to read one text");
    }
    follow(StateId(r >> 32), FrameId(r));
  }
  std::sort(found_.begin(), found_.end());
  return set_of_found();
}

void ReadingGraph::follow(StateId state, FrameId at) {
  if (state == kEnded) {
    found_.push_back(reading(kEnded, at));
    return;
  }
  const Automaton::State& about = automaton_.states[state];
  if (about.reads_bytes) found_.push_back(reading(state, at));
  if (about.is_end) leave(at);
  for (uint32_t i = about.edges_begin; i < about.edges_end; ++i) {
    const Automaton::Edge& edge = automaton_.edges[i];
    switch (edge.kind) {
      case Automaton::EdgeKind::bytes:
        break;
      case Automaton::EdgeKind::none:
        push(edge.target, at);
        break;
      case Automaton::EdgeKind::call:
        // A call at the very end returns to where its caller returns: recursion to the right needs no stack. Not below
        // a repetition: the called rule's masks would then depend on the count.
        push(edge.target, automaton_.states[edge.after].only_end() && !is_repeat(at) ? at : frame({edge.after, 0, at}));
        break;
      case Automaton::EdgeKind::repeat: {
        const Automaton::Repeat& repeat = automaton_.repeats[edge.target];
        push(repeat.body, frame({kRepeatBit | edge.target, 0, at}));
        if (repeat.min == 0) push(repeat.after, at);
        break;
      }
    }
  }
}

void ReadingGraph::leave(FrameId at) {
  if (at == kBottom || at == kUnknown) return push(kEnded, at);
  Frame f = frames_[at];
  if (!is_repeat(at)) return push(f.what, f.parent);
  const Automaton::Repeat& repeat = repeat_of(at);
  if (f.count >= kNeverEnough) {
    if (f.count == kNeverTooMany) push(repeat.after, f.parent);
    return push(repeat.body, at);
  }
  uint32_t count = f.count + 1;
  if (count >= repeat.min) push(repeat.after, f.parent);
  if (repeat.max == Automaton::kNoMax) count = std::min(count, repeat.min);
  if (count < repeat.max) push(repeat.body, frame({f.what, count, f.parent}));
}

SetId ReadingGraph::set_of_found() {
  uint64_t hash = 0x243F6A8885A308D3u;
  for (Reading r : found_) hash = (hash ^ r) * 0x9E3779B97F4A7C15u, hash ^= hash >> 29;
  auto [begin, end] = set_ids_.equal_range(hash);
  for (; begin != end; ++begin) {
    std::span<const Reading> known = readings(begin->second);
    if (std::equal(known.begin(), known.end(), found_.begin(), found_.end())) return begin->second;
  }
  SetId id = SetId(sets_.size());
  Set set{readings_.size(), uint32_t(found_.size())};
  for (Reading r : found_) {
    if (StateId(r >> 32) != kEnded) continue;
    (FrameId(r) == kBottom ? set.ends_at_bottom : set.ends_at_unknown) = true;
  }
  readings_.insert(readings_.end(), found_.begin(), found_.end());
  sets_.push_back(set);
  next_.resize(next_.size() + automaton_.n_byte_classes, 0);
  set_ids_.emplace(hash, id);
  return id;
}

std::pair<FrameId, FrameId> ReadingGraph::split(FrameId at) {
  std::vector<FrameId> repeats;
  while (is_repeat(at)) {
    repeats.push_back(at);
    at = frames_[at].parent;
  }
  // No token brings more turns than it has bytes.
  FrameId local = kUnknown;
  for (size_t i = repeats.size(); i-- > 0;) {
    Frame f = frames_[repeats[i]];
    const Automaton::Repeat& repeat = repeat_of(repeats[i]);
    uint32_t count = f.count;
    if (f.count < repeat.min && repeat.min - f.count > longest_token_) count = kNeverEnough;
    if (f.count >= repeat.min && repeat.max - f.count > longest_token_) count = kNeverTooMany;
    local = frame({f.what, count, local});
  }
  return {local, at};
}

ReadingGraph::Far ReadingGraph::far_from_counts(SetId local) {
  uint32_t reach = longest_token_;
  std::vector<Reading> far;
  for (size_t i = 0; i < sets_[local].size; ++i) {
    Reading r = readings(local)[i];
    std::vector<FrameId> repeats;
    for (FrameId at = FrameId(r); is_repeat(at); at = frames_[at].parent) repeats.push_back(at);
    FrameId made = kUnknown;
    for (size_t j = repeats.size(); j-- > 0;) {
      Frame f = frames_[repeats[j]];
      const Automaton::Repeat& repeat = repeat_of(repeats[j]);
      bool enough = f.count >= repeat.min && f.count != kNeverEnough;
      if (f.count < kNeverEnough) reach = std::min(reach, (enough ? repeat.max : repeat.min) - f.count);
      made = frame({f.what, enough ? kNeverTooMany : kNeverEnough, made});
    }
    far.push_back(reading(StateId(r >> 32), made));
  }
  std::sort(far.begin(), far.end());
  far.erase(std::unique(far.begin(), far.end()), far.end());
  found_ = std::move(far);
  return {set_of_found(), reach};
}

const std::vector<ReadingGraph::Local>& ReadingGraph::locals(SetId set) {
  auto [place, is_new] = locals_.try_emplace(set);
  if (!is_new) return place->second;
  std::vector<std::pair<FrameId, Reading>> by_caller;
  for (size_t i = 0; i < sets_[set].size; ++i) {
    Reading r = readings(set)[i];
    if (StateId(r >> 32) == kEnded) continue;
    auto [local, caller] = split(FrameId(r));
    by_caller.emplace_back(caller, reading(StateId(r >> 32), local));
  }
  std::sort(by_caller.begin(), by_caller.end());
  by_caller.erase(std::unique(by_caller.begin(), by_caller.end()), by_caller.end());
  for (size_t i = 0; i < by_caller.size();) {
    FrameId caller = by_caller[i].first;
    found_.clear();
    for (; i < by_caller.size() && by_caller[i].first == caller; ++i) found_.push_back(by_caller[i].second);
    place->second.push_back({set_of_found(), caller});
  }
  return place->second;
}

SetId ReadingGraph::after_return(FrameId caller) {
  if (caller == kBottom || caller == kUnknown) return kDead;
  auto known = after_return_.find(caller);
  if (known != after_return_.end()) return known->second;
  push(frames_[caller].what, frames_[caller].parent);
  SetId set = close();
  after_return_[caller] = set;
  return set;
}

size_t ReadingGraph::bytes() const {
  return frames_.size() * (sizeof(Frame) * 2 + 32) + readings_.size() * sizeof(Reading) +
         sets_.size() * (sizeof(Set) + 80) + next_.size() * sizeof(SetId);
}

SetId ReadingGraph::copy_to(ReadingGraph& other, SetId set) const {
  // Parents have smaller numbers than their children.
  std::vector<FrameId> used;
  std::unordered_map<FrameId, FrameId> copies = {{kBottom, kBottom}, {kUnknown, kUnknown}};
  for (Reading r : readings(set)) {
    for (FrameId at = FrameId(r); copies.try_emplace(at, 0).second; at = frames_[at].parent) used.push_back(at);
  }
  std::sort(used.begin(), used.end());
  for (FrameId at : used) {
    Frame f = frames_[at];
    f.parent = copies[f.parent];
    copies[at] = other.frame(f);
  }
  other.found_.clear();
  for (Reading r : readings(set)) other.found_.push_back(reading(StateId(r >> 32), copies[FrameId(r)]));
  std::sort(other.found_.begin(), other.found_.end());
  return other.set_of_found();
}

}  // namespace l4
