// What an answer may say next, as the engine sees it: a mask over the vocabulary that follows the tokens chosen.
// Grammars are this; core/l4 joins the two.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

namespace l4 {

class TokenConstraint {
 public:
  virtual ~TokenConstraint() = default;

  // Sets the bits of the ids that are allowed next, those of eos ids where the answer may end, and clears the others.
  // False: every id is allowed, and `mask` means nothing. [ceil(vocab / 32)] words.
  virtual bool fill_mask(std::span<uint32_t> mask) = 0;
  // `id` was chosen. False: it was not allowed (a bug).
  virtual bool accept(int32_t id) = 0;
  // Nothing but the end may follow.
  virtual bool ended() const = 0;
  virtual std::unique_ptr<TokenConstraint> clone() const = 0;
};

}  // namespace l4
