// The text of an answer as it comes -> content and tool calls.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/tool_calls.h"
#include "tools/serve/api/answer.h"

namespace l4::serve {

class ReplyParts {
 public:
  // Calls to these functions are looked for; none: all is content. Without `parallel` no more than the first is taken.
  ReplyParts(const std::vector<std::string>& tool_names, bool parallel);

  // What is new goes to the end of `answer` and into `delta`.
  void push(std::string_view text, Answer& answer, Delta& delta);
  void finish(Answer& answer, Delta& delta);
  bool has_enough() const { return !parallel_ && calls_ && calls_->n_calls() > 0; }  // no more will be taken

 private:
  void take(const std::vector<ToolCallDelta>& pieces, Answer& answer, Delta& delta) const;

  std::optional<ToolCallStream> calls_;
  bool parallel_;
};

}  // namespace l4::serve
