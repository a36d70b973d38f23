#include "text/tool_calls.h"

#include <algorithm>
#include <charconv>
#include <optional>

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

  explicit Scanner(std::string_view text) : text_(text), work_left_(text.size() * 16 + 4096) {}

  size_t position = 0;

  bool at_end() const { return position >= text_.size(); }
  bool out_of_work() const { return work_left_ == 0; }
  void skip_space() {
    while (!at_end() && std::string_view(" \t\r\n").find(text_[position]) != std::string_view::npos) step();
  }
  bool accept(char c) {
    skip_space();
    if (at_end() || text_[position] != c) return false;
    step();
    return true;
  }
  bool accept(std::string_view word) {
    if (!text_.substr(position).starts_with(word)) return false;
    for (size_t i = 0; i < word.size(); ++i) step();
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
      step();
    }
    return text_.substr(begin, position - begin);
  }

  std::optional<Json> value(Mode mode, int depth = 0) {
    constexpr int kMaxDepth = 64;
    if (depth > kMaxDepth || out_of_work()) return std::nullopt;
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
    std::string_view word = name("");
    if (word == "true" || word == "True") return Json(true);
    if (word == "false" || word == "False") return Json(false);
    if (word == "null" || word == "None") return Json();
    return std::nullopt;
  }

 private:
  void step() {
    ++position;
    if (work_left_ > 0) --work_left_;
  }

  std::optional<Json> number() {
    size_t begin = position;
    while (!at_end() && std::string_view("+-.0123456789eE").find(text_[position]) != std::string_view::npos) step();
    std::string_view digits = text_.substr(begin, position - begin);
    if (digits.starts_with('+')) digits.remove_prefix(1);
    if (std::optional<int64_t> whole = parse_int(digits)) return Json(*whole);
    if (std::optional<double> real = parse_double(digits)) return Json(*real);
    return std::nullopt;
  }

  std::optional<Json> list(char close, Mode mode, int depth) {
    step();
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
    step();
    Json members{Json::Object{}};
    while (!accept('}')) {
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
    if (mode == Mode::python && text_.substr(position).starts_with(three)) quote = three;
    accept(std::string_view(quote));
    std::string out;
    while (!accept(std::string_view(quote))) {
      if (at_end() || out_of_work()) return std::nullopt;
      if (text_[position] == '\\') {
        if (!escape(mode, out)) return std::nullopt;
      } else {
        out.push_back(text_[position]);
        step();
      }
    }
    if (!is_valid_utf8(out)) return std::nullopt;
    return out;
  }

  bool escape(Mode mode, std::string& out) {
    step();
    if (at_end()) return false;
    char c = text_[position];
    step();
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
    uint32_t code = 0;
    auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), code, 16);
    if (digits.size() != n_digits || error != std::errc() || end != digits.data() + n_digits) return std::nullopt;
    position += n_digits;
    return code;
  }

  std::string_view text_;
  size_t work_left_;  // bounds the time on text made to be read again and again from different places
};

class ReplyParser {
 public:
  ReplyParser(std::string_view reply, std::span<const std::string> tool_names)
      : reply_(reply), tool_names_(tool_names), scanner_(reply) {}

  ParsedReply parse() {
    bool in_mark = false;  // directly after <|python_start|>, where calls may stand without brackets
    for (size_t pos = 0; pos < reply_.size();) {
      std::string_view rest = reply_.substr(pos);
      if (rest.starts_with(special::kPythonStart) || rest.starts_with(special::kPythonEnd)) {
        in_mark = rest.starts_with(special::kPythonStart);
        pos += in_mark ? special::kPythonStart.size() : special::kPythonEnd.size();
        continue;
      }
      if (size_t end = calls_at(pos, in_mark)) {
        pos = end;
        continue;
      }
      if (std::string_view(" \t\r\n").find(reply_[pos]) == std::string_view::npos) in_mark = false;
      content_.push_back(reply_[pos++]);
    }
    if (!result_.calls.empty()) end_gap(true);
    result_.content = std::move(content_);
    if (!result_.calls.empty()) result_.content = std::string(trim(result_.content));
    return std::move(result_);
  }

 private:
  // Reads calls that begin at `pos`; the position after them, or 0 when there are none.
  size_t calls_at(size_t pos, bool in_mark) {
    char c = reply_[pos];
    bool bare = in_mark && c != '[' && c != '{';
    if ((c != '[' && c != '{' && !bare) || scanner_.out_of_work()) return 0;
    scanner_.position = pos;
    std::vector<ToolCall> calls;
    bool found = c == '{' ? json_call(calls) : bare ? bare_calls(calls) : call_list(calls);
    if (!found || calls.empty()) return 0;
    end_gap(false);
    for (ToolCall& call : calls) result_.calls.push_back(std::move(call));
    gap_begin_ = content_.size();
    return scanner_.position;
  }

  // Between two calls white space, ';' and ',' are separators, not content.
  void end_gap(bool at_end) {
    if (result_.calls.empty()) return;
    std::string_view gap = std::string_view(content_).substr(gap_begin_);
    if (gap.find_first_not_of(at_end ? " \t\r\n;" : " \t\r\n;,") == std::string_view::npos) content_.resize(gap_begin_);
  }

  bool offered(std::string_view name) const {
    return tool_names_.empty() || std::find(tool_names_.begin(), tool_names_.end(), name) != tool_names_.end();
  }

  // [f(a=1), g()] or [{"name": ...}, ...]. At the end of the text the last bracket may be missing.
  bool call_list(std::vector<ToolCall>& calls) {
    scanner_.position += 1;
    while (true) {
      scanner_.skip_space();
      bool is_json = !scanner_.at_end() && reply_[scanner_.position] == '{';
      if (!(is_json ? json_call(calls) : python_call(calls))) return false;
      if (scanner_.accept(']')) return true;
      if (!scanner_.accept(',')) break;
      if (scanner_.accept(']')) return true;
    }
    scanner_.skip_space();
    return scanner_.at_end();
  }

  // f(a=1) or f(a=1); g() up to the end or the closing mark.
  bool bare_calls(std::vector<ToolCall>& calls) {
    while (true) {
      if (!python_call(calls)) return false;
      if (!scanner_.accept(';') && !scanner_.accept(',')) scanner_.skip_space();
      if (scanner_.at_end() || reply_.substr(scanner_.position).starts_with(special::kPythonEnd)) return true;
    }
  }

  bool python_call(std::vector<ToolCall>& calls) {
    constexpr size_t kMaxArguments = 1024;
    ToolCall call;
    call.name = scanner_.name(".-0123456789");
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
  bool json_call(std::vector<ToolCall>& calls) {
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

  std::string_view reply_;
  std::span<const std::string> tool_names_;
  Scanner scanner_;
  std::string content_;
  size_t gap_begin_ = 0;  // in content_: where the text after the last call begins
  ParsedReply result_;
};

}  // namespace

ParsedReply parse_tool_calls(std::string_view reply, std::span<const std::string> tool_names) {
  return ReplyParser(reply, tool_names).parse();
}

}  // namespace l4
