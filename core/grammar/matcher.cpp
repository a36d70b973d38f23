#include <algorithm>

#include "base/error.h"
#include "grammar/compiled.h"
#include "grammar/limits.h"

namespace l4 {

Grammar::Grammar(GrammarVocabPtr vocab, Automaton automaton)
    : vocab_(std::move(vocab)),
      automaton_(std::move(automaton)),
      masks_(std::make_shared<TokenMasks>(automaton_, *vocab_)) {}

std::shared_ptr<TokenMasks> Grammar::masks() const {
  std::lock_guard lock(mutex_);
  size_t bytes = [&] {
    std::lock_guard masks_lock(masks_->mutex);
    return masks_->bytes();
  }();
  if (bytes > grammar_limits::kMaxCacheBytes) masks_ = std::make_shared<TokenMasks>(automaton_, *vocab_);
  return masks_;
}

GrammarPtr make_grammar(const GrammarVocabPtr& vocab, GrammarRules& rules, RuleId root) {
  auto grammar = std::make_shared<const Grammar>(vocab, compile_automaton(rules, root));
  std::vector<uint32_t> mask((size_t(vocab->size) + 31) / 32);
  GrammarMatcher(grammar).fill_mask(mask);
  return grammar;
}

struct GrammarMatcher::State {
  GrammarPtr grammar;
  std::shared_ptr<TokenMasks> masks;
  SetId set;
  int64_t work_left = grammar_limits::kMaxReplyWork;
  bool stopped = false;  // an end token was taken

  // While one lives, the masks are locked and the work on them is counted.
  struct Visit {
    explicit Visit(State& visitor) : state(visitor), lock(visitor.masks->mutex) {
      allowed = std::min(state.work_left, grammar_limits::kMaxWork);
      state.masks->graph.begin_work(allowed);
    }
    ~Visit() { state.work_left -= allowed - std::max<int64_t>(state.masks->graph.work_left(), 0); }
    State& state;
    std::lock_guard<std::mutex> lock;
    int64_t allowed;
  };
  // Moves to the grammar's present masks.
  void move_to_present_masks() {
    std::shared_ptr<TokenMasks> now = grammar->masks();
    if (now == masks) return;
    {
      std::scoped_lock both(now->mutex, masks->mutex);
      set = masks->graph.copy_to(now->graph, set);
    }
    masks = now;
  }
};

GrammarMatcher::GrammarMatcher(GrammarPtr grammar) : state_(std::make_unique<State>()) {
  state_->masks = grammar->masks();
  state_->grammar = std::move(grammar);
  State::Visit visit(*state_);
  state_->set = state_->masks->graph.start();
}

GrammarMatcher::GrammarMatcher(const GrammarMatcher& other) : state_(std::make_unique<State>(*other.state_)) {}
GrammarMatcher::~GrammarMatcher() = default;

bool GrammarMatcher::fill_mask(std::span<uint32_t> mask) {
  const GrammarVocab& vocab = state_->grammar->vocab();
  L4_CHECK(mask.size() * 32 >= size_t(vocab.size));
  state_->move_to_present_masks();
  State::Visit visit(*state_);
  state_->masks->fill(state_->set, mask);
  return true;
}

bool GrammarMatcher::accept(int32_t id) {
  const GrammarVocab& vocab = state_->grammar->vocab();
  if (id < 0 || id >= vocab.size || state_->stopped) return false;
  if (vocab.is_eos(id)) return state_->stopped = may_end();
  const std::string& bytes = vocab.bytes[size_t(id)];
  return !bytes.empty() && accept_bytes(bytes);
}

bool GrammarMatcher::accept_bytes(std::string_view bytes) {
  if (state_->stopped) return false;
  state_->move_to_present_masks();
  State::Visit visit(*state_);
  SetId set = state_->set;
  for (char c : bytes) set = state_->masks->graph.next(set, uint8_t(c));
  if (set == ReadingGraph::kDead) return false;
  state_->set = set;
  return true;
}

bool GrammarMatcher::may_end() const {
  std::lock_guard lock(state_->masks->mutex);
  return state_->masks->graph.may_end(state_->set);
}

bool GrammarMatcher::ended() const {
  std::lock_guard lock(state_->masks->mutex);
  return state_->stopped || state_->masks->graph.only_end(state_->set);
}

}  // namespace l4
