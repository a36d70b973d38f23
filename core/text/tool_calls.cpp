#include "text/tool_calls.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <utility>

#include "base/strings.h"
#include "text/special_tokens.h"

namespace l4 {

namespace {

// Reads literals and calls at one place of a text. Every function returns nothing, at an unknown position, when what
// stands there is not what it reads; the caller then goes back to where it began.
class Scanner {
 public:
  // JSON's escapes and names of constants are read in both modes; only "\/" and unknown escapes differ.
  enum class Mode { python, json };

  explicit Scanner(std::string_view text) : text_(text) {}

  size_t position = 0;

  bool at_end() {
    if (position < text_.size()) return false;
    saw_end_ = true;
    return true;
  }
  // Whether more text could have changed what was read.
  bool saw_end() const { return saw_end_; }
  void skip_space() {
    while (!at_end() && std::string_view(" \t\r\n").find(text_[position]) != std::string_view::npos) ++position;
  }
  bool accept(char c) {
    skip_space();
    if (at_end() || text_[position] != c) return false;
    ++position;
    return true;
  }
  bool sees(std::string_view word) {
    std::string_view rest = text_.substr(position);
    if (rest.size() < word.size() && word.starts_with(rest)) saw_end_ = true;
    return rest.starts_with(word);
  }
  bool accept(std::string_view word) {
    if (!sees(word)) return false;
    position += word.size();
    return true;
  }

  // A letter or underscore, then those, digits and `extra`.
  std::string_view name(std::string_view extra) {
    skip_space();
    size_t begin = position;
    auto letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; };
    while (!at_end()) {
      char c = text_[position];
      bool inner = (c >= '0' && c <= '9') || extra.find(c) != std::string_view::npos;
      if (!letter(c) && !(position > begin && inner)) break;
      ++position;
    }
    return text_.substr(begin, position - begin);
  }

  std::optional<Json> value(Mode mode, int depth = 0) {
    constexpr int kMaxDepth = 64;
    if (depth > kMaxDepth) return std::nullopt;
    skip_space();
    if (at_end()) return std::nullopt;
    char c = text_[position];
    if (c == '"' || (c == '\'' && mode == Mode::python)) {
      std::optional<std::string> text = string(mode);
      return text ? std::optional<Json>(Json(std::move(*text))) : std::nullopt;
    }
    if (c == '{') return dict(mode, depth);
    if (c == '[') return list(']', mode, depth);
    if (c == '(' && mode == Mode::python) return list(')', mode, depth);  // a tuple
    if ((c >= '0' && c <= '9') || c == '-' || c == '+' || c == '.') return number();
    bool saw_end_before = saw_end_;
    std::string_view word = name("");
    if (word == "true" || word == "True") return Json(true);
    if (word == "false" || word == "False") return Json(false);
    if (word == "null" || word == "None") return Json();
    constexpr std::array<std::string_view, 6> kWords = {"true", "True", "false", "False", "null", "None"};
    if (std::none_of(kWords.begin(), kWords.end(), [&](std::string_view known) { return known.starts_with(word); })) {
      saw_end_ = saw_end_before;  // no letter that may follow makes it one
    }
    return std::nullopt;
  }

 private:
  std::optional<Json> number() {
    size_t begin = position;
    while (!at_end() && std::string_view("+-.0123456789eE").find(text_[position]) != std::string_view::npos) ++position;
    std::string_view digits = text_.substr(begin, position - begin);
    if (digits.starts_with('+')) digits.remove_prefix(1);
    if (std::optional<int64_t> whole = parse_int(digits)) return Json(*whole);
    if (std::optional<double> real = parse_double(digits)) return Json(*real);
    return std::nullopt;
  }

  std::optional<Json> list(char close, Mode mode, int depth) {
    ++position;
    Json::Array items;
    while (!accept(close)) {
      std::optional<Json> item = value(mode, depth + 1);
      if (!item) return std::nullopt;
      items.push_back(std::move(*item));
      if (accept(',')) continue;
      if (!accept(close)) return std::nullopt;
      break;
    }
    return Json(std::move(items));
  }

  std::optional<Json> dict(Mode mode, int depth) {
    constexpr size_t kMaxMembers = 1024;  // Json::set searches
    ++position;
    Json members{Json::Object{}};
    while (!accept('}')) {
      if (!at_end() && text_[position] != '"' && text_[position] != '\'') return std::nullopt;
      std::optional<Json> key = value(mode, depth + 1);
      if (!key || !key->is_string() || !accept(':')) return std::nullopt;
      std::optional<Json> member = value(mode, depth + 1);
      if (!member || members.as_object().size() >= kMaxMembers) return std::nullopt;
      members.set(key->as_string(), std::move(*member));
      if (accept(',')) continue;
      if (!accept('}')) return std::nullopt;
      break;
    }
    return members;
  }

  // 'x', "x", and in Python's mode three quotes; line ends may stand in any of them, as the model writes them.
  std::optional<std::string> string(Mode mode) {
    std::string quote(1, text_[position]);
    std::string three(3, quote[0]);
    if (mode == Mode::python && sees(three)) quote = three;
    accept(std::string_view(quote));
    std::string out;
    while (!accept(std::string_view(quote))) {
      if (at_end()) return std::nullopt;
      if (text_[position] == '\\') {
        if (!escape(mode, out)) return std::nullopt;
      } else {
        out.push_back(text_[position]);
        ++position;
      }
    }
    if (!is_valid_utf8(out)) return std::nullopt;
    return out;
  }

  bool escape(Mode mode, std::string& out) {
    ++position;
    if (at_end()) return false;
    char c = text_[position];
    ++position;
    constexpr std::string_view kLetters = "nrtbfav0\\\"'", kMeanings = std::string_view("\n\r\t\b\f\a\v\0\\\"'", 11);
    if (size_t which = kLetters.find(c); which != std::string_view::npos) {
      out.push_back(kMeanings[which]);
    } else if (c == '/' && mode == Mode::json) {
      out.push_back('/');
    } else if (c == '\n') {  // Python: a line goes on
    } else if (c == 'x' || c == 'u' || c == 'U') {
      std::optional<uint32_t> code = hex(c == 'x' ? 2 : c == 'u' ? 4 : 8);
      if (code && *code >= 0xD800 && *code < 0xDC00 && accept(std::string_view("\\u"))) {
        std::optional<uint32_t> low = hex(4);
        if (!low || *low < 0xDC00 || *low > 0xDFFF) return false;
        code = 0x10000 + ((*code - 0xD800) << 10) + (*low - 0xDC00);
      }
      if (!code || *code > 0x10FFFF || (*code >= 0xD800 && *code < 0xE000)) return false;
      append_utf8(out, char32_t(*code));
    } else {  // unknown escapes stay as they are, as in Python
      out.push_back('\\');
      out.push_back(c);
    }
    return true;
  }

  std::optional<uint32_t> hex(size_t n_digits) {
    std::string_view digits = text_.substr(position, n_digits);
    if (digits.size() != n_digits) saw_end_ = true;
    uint32_t code = 0;
    auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), code, 16);
    if (digits.size() != n_digits || error != std::errc() || end != digits.data() + n_digits) return std::nullopt;
    position += n_digits;
    return code;
  }

  std::string_view text_;
  bool saw_end_ = false;
};

// Reads the calls that begin at the beginning of a text.
class CallParser {
 public:
  CallParser(std::string_view text, const std::vector<std::string>& tool_names)
      : text_(text), tool_names_(tool_names), scanner_(text) {}

  enum class Outcome { calls, no_calls, open };  // open: more text decides
  // bare: calls may stand without brackets here. at_end: no text follows.
  Outcome parse(bool bare, bool at_end) {
    bool found = text_[0] == '{' ? json_call() : text_[0] == '[' ? call_list() : bare && bare_calls();
    if (scanner_.saw_end() && !at_end && !impossible_) return Outcome::open;
    return found && !calls.empty() ? Outcome::calls : Outcome::no_calls;
  }

  std::vector<ToolCall> calls;
  // A name that is none of the offered counts for nothing: how much of it was there does not matter.
  size_t n_read() const { return impossible_ ? 0 : scanner_.position; }

 private:
  bool begins_offered(std::string_view begin) const {
    return tool_names_.empty() || std::any_of(tool_names_.begin(), tool_names_.end(),
                                              [&](const std::string& name) { return name.starts_with(begin); });
  }
  bool offered(std::string_view name) const {
    return tool_names_.empty() || std::find(tool_names_.begin(), tool_names_.end(), name) != tool_names_.end();
  }

  // [f(a=1), g()] or [{"name": ...}, ...]. At the end of the text the last bracket may be missing.
  bool call_list() {
    scanner_.position += 1;
    while (true) {
      scanner_.skip_space();
      bool is_json = !scanner_.at_end() && text_[scanner_.position] == '{';
      if (!(is_json ? json_call() : python_call())) return false;
      if (scanner_.accept(']')) return true;
      if (!scanner_.accept(',')) break;
      if (scanner_.accept(']')) return true;
    }
    scanner_.skip_space();
    return scanner_.at_end();
  }

  // f(a=1) or f(a=1); g() up to the end or the closing mark.
  bool bare_calls() {
    while (true) {
      if (!python_call()) return false;
      if (!scanner_.accept(';') && !scanner_.accept(',')) scanner_.skip_space();
      if (scanner_.at_end() || scanner_.sees(special::kPythonEnd)) return true;
    }
  }

  bool python_call() {
    constexpr size_t kMaxArguments = 1024;
    ToolCall call;
    call.name = scanner_.name(".-0123456789");
    impossible_ = !begins_offered(call.name);
    if (call.name.empty() || !offered(call.name) || !scanner_.accept('(')) return false;
    while (!scanner_.accept(')')) {
      std::string key(scanner_.name("-"));
      if (key.empty() || !scanner_.accept('=')) return false;
      std::optional<Json> value = scanner_.value(Scanner::Mode::python);
      if (!value || call.arguments.as_object().size() >= kMaxArguments) return false;
      call.arguments.set(key, std::move(*value));
      if (scanner_.accept(',')) continue;
      if (!scanner_.accept(')')) return false;
      break;
    }
    calls.push_back(std::move(call));
    return true;
  }

  // {"name": "f", "parameters": {...}}; "arguments" for "parameters", a string that holds the object, and OpenAI's
  // {"type": "function", "function": {...}} are the same.
  bool json_call() {
    std::optional<Json> value = scanner_.value(Scanner::Mode::json);
    if (!value || !value->is_object()) return false;
    const Json* call = value->find("function");
    if (!call || !call->is_object()) call = &*value;
    const Json* name = call->find("name");
    const Json* arguments = call->find("parameters");
    if (!arguments) arguments = call->find("arguments");
    if (!name || !name->is_string() || !offered(name->as_string()) || !arguments) return false;
    if (arguments->is_object()) {
      calls.push_back({name->as_string(), *arguments});
      return true;
    }
    if (!arguments->is_string()) return false;
    Scanner inner(arguments->as_string());
    std::optional<Json> object = inner.value(Scanner::Mode::json);
    inner.skip_space();
    if (!object || !object->is_object() || !inner.at_end()) return false;
    calls.push_back({name->as_string(), std::move(*object)});
    return true;
  }

  std::string_view text_;
  const std::vector<std::string>& tool_names_;
  Scanner scanner_;
  bool impossible_ = false;  // whatever follows
};

}  // namespace

class ToolCallStream::Reader {
 public:
  explicit Reader(std::vector<std::string> tool_names) : tool_names_(std::move(tool_names)) {}

  struct Event {
    std::string content;
    std::vector<ToolCall> calls;  // after it
  };

  // What is decided now that `more` was written.
  std::vector<Event> read(std::string_view more, bool at_end) {
    open_ += more;
    if (!at_end && open_.size() < try_again_) return {};
    events_ = {Event{}};
    size_t pos = 0;
    while (pos < open_.size()) {
      std::string_view rest = std::string_view(open_).substr(pos);
      if (rest.starts_with(special::kPythonStart) || rest.starts_with(special::kPythonEnd)) {
        in_mark_ = rest.starts_with(special::kPythonStart);
        pos += in_mark_ ? special::kPythonStart.size() : special::kPythonEnd.size();
        continue;
      }
      if (!at_end && (special::kPythonStart.starts_with(rest) || special::kPythonEnd.starts_with(rest))) break;
      if ((rest[0] == '[' || rest[0] == '{' || in_mark_) && may_work(pos)) {
        CallParser parser(rest, tool_names_);
        CallParser::Outcome outcome = parser.parse(in_mark_, at_end);
        if (outcome == CallParser::Outcome::open) break;
        work_ += parser.n_read();
        if (outcome == CallParser::Outcome::calls) {
          take(std::move(parser.calls));
          pos += parser.n_read();
          continue;
        }
      }
      if (!is_space(rest[0])) in_mark_ = false;
      put(rest[0]);
      ++pos;
    }
    n_done_ += pos;
    open_.erase(0, pos);
    constexpr size_t kShort = 4096;  // a longer call is looked at again when it has grown by a part of its length
    try_again_ = open_.size() <= kShort ? 0 : open_.size() + open_.size() / 32;
    if (at_end) end();
    return std::move(events_);
  }

  int n_calls() const { return n_calls_; }

 private:
  static bool is_space(char c) { return std::string_view(" \t\r\n").find(c) != std::string_view::npos; }

  // Bounds the time on text made to be read again and again from different places, by what came so far: then the
  // answer does not depend on how the text is cut.
  bool may_work(size_t pos) const { return work_ <= 65536 + 16 * (n_done_ + pos); }

  // White space is held back, and between two calls ';' and ',' too: they are separators if a call follows.
  void put(char c) {
    held_.push_back(c);
    if (is_space(c) || (in_gap_ && (c == ';' || c == ','))) return;
    in_gap_ = false;
    release();
  }
  void release() {
    std::string_view text = held_;
    if (!has_content_ && n_calls_ > 0) text.remove_prefix(std::min(text.find_first_not_of(" \t\r\n"), text.size()));
    has_content_ |= !text.empty();
    events_.back().content += text;
    held_.clear();
  }
  void take(std::vector<ToolCall> found) {
    if (in_gap_) held_.resize(gap_begin_);
    in_gap_ = true;
    gap_begin_ = held_.size();
    n_calls_ += int(found.size());
    events_.back().calls = std::move(found);
    events_.emplace_back();
  }
  void end() {
    if (in_gap_ && held_.find(',', gap_begin_) == std::string::npos) held_.resize(gap_begin_);
    if (n_calls_ > 0) held_.resize(trim_end(held_));
    release();
  }
  static size_t trim_end(std::string_view text) { return text.find_last_not_of(" \t\r\n") + 1; }

  std::vector<std::string> tool_names_;
  std::string open_;  // not decided yet
  size_t try_again_ = 0;
  size_t n_done_ = 0, work_ = 0;
  bool in_mark_ = false;  // directly after <|python_start|>, where calls may stand without brackets
  std::string held_;      // content that may turn out to be white space at the end, or between calls
  bool in_gap_ = false;   // nothing but separators came since the last call
  size_t gap_begin_ = 0;  // in held_
  bool has_content_ = false;
  int n_calls_ = 0;
  std::vector<Event> events_;
};

ToolCallStream::ToolCallStream(std::vector<std::string> tool_names)
    : reader_(std::make_unique<Reader>(std::move(tool_names))) {}
ToolCallStream::~ToolCallStream() = default;
ToolCallStream::ToolCallStream(ToolCallStream&&) noexcept = default;
ToolCallStream& ToolCallStream::operator=(ToolCallStream&&) noexcept = default;
int ToolCallStream::n_calls() const {
  return reader_->n_calls();
}

std::vector<ToolCallDelta> ToolCallStream::read(std::string_view text, bool at_end) {
  std::vector<ToolCallDelta> out;
  int index = reader_->n_calls();
  for (Reader::Event& event : reader_->read(text, at_end)) {
    if (!event.content.empty()) out.push_back({ToolCallDelta::Kind::content, -1, std::move(event.content)});
    for (const ToolCall& call : event.calls) {
      out.push_back({ToolCallDelta::Kind::call, index, call.name});
      out.push_back({ToolCallDelta::Kind::arguments, index++, dump_json(call.arguments)});
    }
  }
  return out;
}

std::vector<ToolCallDelta> ToolCallStream::push(std::string_view text) {
  return read(text, false);
}
std::vector<ToolCallDelta> ToolCallStream::finish() {
  return read({}, true);
}

ParsedReply parse_tool_calls(std::string_view reply, std::span<const std::string> tool_names) {
  ParsedReply out;
  for (auto& [content, calls] : ToolCallStream::Reader({tool_names.begin(), tool_names.end()}).read(reply, true)) {
    out.content += content;
    for (ToolCall& call : calls) out.calls.push_back(std::move(call));
  }
  return out;
}

}  // namespace l4
