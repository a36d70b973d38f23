// Where a text may stand in an automaton. A reading is a state with a stack of frames below it (calls to return from,
// counts of repetitions); an ambiguous grammar has several readings of one text at once. Frames and sets of readings
// are kept once each, so a set is a number, and where a byte leads from a set is found once and then looked up. That is
// a deterministic automaton made while it is used; stacks make it endless, so it is thrown away when it grows too
// large.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "grammar/automaton.h"

namespace l4 {

using FrameId = uint32_t;
using SetId = uint32_t;

class ReadingGraph {
 public:
  static constexpr SetId kDead = 1;       // the empty set: nothing can be read any more
  static constexpr FrameId kBottom = 0;   // below the root rule: the text may end here
  static constexpr FrameId kUnknown = 1;  // below a local set: whatever called the rule

  ReadingGraph(const Automaton& automaton, uint32_t longest_token);

  SetId start();
  // Error{usage} when a grammar has too many readings of one text, or more have been looked at than begin_work()
  // allowed.
  SetId next(SetId set, uint8_t byte) {
    SetId& known = next_[size_t(set) * automaton_.n_byte_classes + automaton_.byte_class[byte]];
    return known != 0 ? known : find_next(set, automaton_.byte_class[byte]);
  }
  void begin_work(int64_t allowed) { work_left_ = allowed; }
  int64_t work_left() const { return work_left_; }

  bool may_end(SetId set) const { return sets_[set].ends_at_bottom; }
  bool only_end(SetId set) const { return may_end(set) && sets_[set].size == 1; }
  bool leaves_unknown(SetId set) const { return sets_[set].ends_at_unknown; }

  // The readings of a set, told apart by the call they are in: what they do until that call returns does not depend on
  // what lies below it. Counts of repetitions that no token can bring to an end count as equal.
  struct Local {
    SetId set;       // with kUnknown below
    FrameId caller;  // the call's frame
  };
  const std::vector<Local>& locals(SetId set);
  // A local set with all counts far from where they matter, and the length in bytes up to which tokens cannot tell it
  // from `local`: a turn of a repetition reads a byte or more.
  struct Far {
    SetId set;
    uint32_t reach;
  };
  Far far_from_counts(SetId local);
  SetId after_return(FrameId caller);  // where the text stands when that call returns; kDead for kBottom

  size_t bytes() const;
  size_t n_sets() const { return sets_.size(); }
  // The same place in another graph of the same automaton.
  SetId copy_to(ReadingGraph& other, SetId set) const;

 private:
  struct Frame {
    uint32_t what;   // a state to return to, or kRepeatBit | repetition
    uint32_t count;  // of finished turns, or one of the next two
    FrameId parent;
    bool operator==(const Frame&) const = default;
  };
  struct FrameHash {
    size_t operator()(const Frame& f) const {
      return ((uint64_t(f.what) * 0x9E3779B97F4A7C15u) ^ (uint64_t(f.count) << 20) ^ f.parent) * 0xD6E8FEB86659FD93u >>
             7;
    }
  };
  struct Set {
    size_t begin;  // in readings_
    uint32_t size;
    bool ends_at_bottom = false, ends_at_unknown = false;
  };
  static constexpr uint32_t kNeverEnough = ~0u - 1, kNeverTooMany = ~0u;  // for local sets
  using Reading = uint64_t;  // state in the high half, frame in the low one
  static constexpr uint32_t kRepeatBit = 1u << 31;
  static constexpr StateId kEnded = ~StateId(0);  // the state of readings that have left their bottom frame

  static Reading reading(StateId state, FrameId frame) { return uint64_t(state) << 32 | frame; }
  std::span<const Reading> readings(SetId set) const { return {readings_.data() + sets_[set].begin, sets_[set].size}; }

  FrameId frame(Frame f);
  bool is_repeat(FrameId at) const { return frames_[at].what & kRepeatBit; }
  SetId find_next(SetId set, uint32_t byte_class);
  void push(StateId state, FrameId frame);
  void follow(StateId state, FrameId frame);
  void leave(FrameId frame);
  SetId close();  // everything reachable from what was pushed without reading, as a set
  SetId set_of_found();
  std::pair<FrameId, FrameId> split(FrameId frame);  // local frame, caller
  const Automaton::Repeat& repeat_of(FrameId at) const { return automaton_.repeats[frames_[at].what & ~kRepeatBit]; }

  const Automaton& automaton_;
  uint32_t longest_token_;
  std::array<uint8_t, 256> class_byte_{};  // one byte of every class
  std::vector<Frame> frames_;
  std::unordered_map<Frame, FrameId, FrameHash> frame_ids_;
  std::vector<Set> sets_;
  std::vector<Reading> readings_;
  std::unordered_multimap<uint64_t, SetId> set_ids_;  // by hash of the readings
  std::vector<SetId> next_;                           // [sets, byte classes]; 0: not known yet
  std::unordered_map<SetId, std::vector<Local>> locals_;
  std::unordered_map<FrameId, SetId> after_return_;
  int64_t work_left_ = 0;

  // Scratch of close().
  std::vector<Reading> pending_, found_;
  std::vector<Reading> seen_;  // open addressing, a power of two
  std::vector<uint32_t> seen_in_;
  uint32_t seen_round_ = 0;
  size_t n_seen_ = 0;
  bool see(Reading r);
};

}  // namespace l4
