// A grammar as the engine sees it.
#pragma once

#include <memory>

#include "engine/token_constraint.h"
#include "grammar/grammar.h"

namespace l4 {

class GrammarConstraint final : public TokenConstraint {
 public:
  explicit GrammarConstraint(GrammarPtr grammar) : matcher_(std::move(grammar)) {}

  bool fill_mask(std::span<uint32_t> mask) override { return matcher_.fill_mask(mask); }
  bool accept(int32_t id) override { return matcher_.accept(id); }
  bool ended() const override { return matcher_.ended(); }
  std::unique_ptr<TokenConstraint> clone() const override { return std::make_unique<GrammarConstraint>(*this); }

 private:
  GrammarMatcher matcher_;
};

}  // namespace l4
