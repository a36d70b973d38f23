#include "tools/serve/api/reply_parts.h"

#include "tools/serve/api/dialect.h"

namespace l4::serve {

ReplyParts::ReplyParts(const std::vector<std::string>& tool_names, bool parallel) : parallel_(parallel) {
  if (!tool_names.empty()) calls_.emplace(tool_names);
}

void ReplyParts::push(std::string_view text, Answer& answer, Delta& delta) {
  if (calls_) return take(calls_->push(text), answer, delta);
  answer.text += text;
  delta.text += text;
}

void ReplyParts::finish(Answer& answer, Delta& delta) {
  if (calls_) take(calls_->finish(), answer, delta);
}

void ReplyParts::take(const std::vector<ToolCallDelta>& pieces, Answer& answer, Delta& delta) const {
  for (const ToolCallDelta& piece : pieces) {
    if (!parallel_ && !answer.calls.empty() && piece.index != 0) continue;
    switch (piece.kind) {
      case ToolCallDelta::Kind::content:
        answer.text += piece.text;
        delta.text += piece.text;
        break;
      case ToolCallDelta::Kind::call:
        answer.calls.push_back({random_id(), piece.text, {}});
        delta.calls.push_back({answer.calls.size() - 1, true, {}});
        break;
      case ToolCallDelta::Kind::arguments:
        answer.calls.back().arguments += piece.text;
        if (delta.calls.empty()) delta.calls.push_back({answer.calls.size() - 1, false, {}});
        delta.calls.back().arguments += piece.text;
        break;
    }
  }
}

}  // namespace l4::serve
