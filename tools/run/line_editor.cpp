#include "tools/run/line_editor.h"

#include <histedit.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <clocale>
#include <cstdlib>
#include <cstring>

#include "base/error.h"
#include "base/log.h"
#include "tools/common/signals.h"
#include "tools/common/terminal.h"

namespace l4::run {

namespace {

constexpr int kMaxHistory = 2000;
constexpr uint64_t kMaxLineBytes = 64u << 20;

std::wstring widened(std::string_view utf8) {
  std::wstring out;
  for (size_t pos = 0; pos < utf8.size();) out.push_back(wchar_t(next_code_point(utf8, pos)));
  return out;
}

std::string narrowed(std::wstring_view wide) {
  std::string out;
  for (wchar_t c : wide) append_utf8(out, char32_t(c));
  return out;
}

// Escape sequences of a prompt stand between \1 marks: libedit does not count them.
std::wstring marked(const std::string& prompt) {
  std::wstring out;
  bool in_escape = false;
  for (wchar_t c : widened(prompt)) {
    if (c == L'\x1b') {
      out.push_back(L'\1');
      in_escape = true;
    }
    out.push_back(c);
    if (in_escape && c == L'm') {
      out.push_back(L'\1');
      in_escape = false;
    }
  }
  return out;
}

// Paths by their last part.
std::string in_columns(const std::vector<std::string>& words, size_t width) {
  constexpr size_t kMaxShown = 100;
  std::vector<std::string> names;
  size_t longest = 0;
  for (const std::string& word : words) {
    if (names.size() == kMaxShown) break;
    const size_t slash = word.size() > 1 ? word.rfind('/', word.size() - 2) : std::string::npos;
    names.push_back(slash == std::string::npos || slash == 0 ? word : word.substr(slash + 1));
    longest = std::max(longest, names.back().size());
  }
  const size_t per_row = std::max<size_t>(1, width / (longest + 2));
  std::string out;
  for (size_t i = 0; i < names.size(); ++i) {
    const bool ends_row = (i + 1) % per_row == 0 || i + 1 == names.size();
    if (!ends_row) names[i].resize(longest + 2, ' ');
    out += names[i];
    if (ends_row) out += '\n';
  }
  return words.size() > kMaxShown ? cat(out, "... ", words.size(), " in all\n") : out;
}

// libedit turns letters into bytes by the C locale's rules.
void use_utf8_locale() {
  if (std::setlocale(LC_CTYPE, "") && MB_CUR_MAX > 1) return;
  if (!std::setlocale(LC_CTYPE, "C.UTF-8")) std::setlocale(LC_CTYPE, "en_US.UTF-8");
}

}  // namespace

struct LineEditor::Impl {
  explicit Impl(Options the_options) : options(std::move(the_options)) {}
  ~Impl() {
    if (history) history_wend(history);
    if (el) el_end(el);
  }

  void start();
  int read_character(wchar_t* out);
  Line::Kind wait();  // text: input is ready
  void paste();
  bool complete();
  Line read_plain();

  Options options;
  EditLine* el = nullptr;  // nullptr: input is no terminal
  HistoryW* history = nullptr;
  std::wstring prompt;
  Line::Kind outcome = Line::Kind::text;  // of the line being read
  bool was_typing = false;
  std::string plain;  // read and not yet handed out
};

// ---- libedit's callbacks --------------------------------------------------------------------------------------------

namespace {

LineEditor::Impl* impl_of(EditLine* el) {
  void* data = nullptr;
  el_wget(el, EL_CLIENTDATA, &data);
  return static_cast<LineEditor::Impl*>(data);
}

wchar_t* prompt_of(EditLine* el) {
  return impl_of(el)->prompt.data();
}
int read_one(EditLine* el, wchar_t* out) {
  return impl_of(el)->read_character(out);
}

unsigned char on_paste(EditLine* el, wint_t) {
  impl_of(el)->paste();
  return CC_REFRESH;
}

unsigned char on_tab(EditLine* el, wint_t) {
  return impl_of(el)->complete() ? CC_REDISPLAY : CC_REFRESH;
}

unsigned char on_new_line(EditLine* el, wint_t) {
  el_winsertstr(el, L"\n");
  return CC_REFRESH;
}

}  // namespace

void LineEditor::Impl::start() {
  use_utf8_locale();
  const char* term = std::getenv("TERM");
  if (!term || !*term) setenv("TERM", "dumb", 1);
  el = el_init("l4-run", stdin, options.screen, stderr);
  if (!el) fail(ErrorKind::io, "this terminal cannot be used for line editing");
  el_wset(el, EL_CLIENTDATA, this);
  el_wset(el, EL_EDITOR, L"emacs");
  el_wset(el, EL_SIGNAL, 0);
  el_wset(el, EL_PROMPT_ESC, prompt_of, L'\1');
  el_wset(el, EL_GETCFN, read_one);
  el_wset(el, EL_ADDFN, L"l4-paste", L"insert pasted text", on_paste);
  el_wset(el, EL_ADDFN, L"l4-complete", L"complete", on_tab);
  el_wset(el, EL_ADDFN, L"l4-new-line", L"insert a line feed", on_new_line);
  const wchar_t* const keys[][2] = {
      {L"\\e[200~", L"l4-paste"},      {L"^I", L"l4-complete"},        {L"\\e^M", L"l4-new-line"},
      {L"\\e^J", L"l4-new-line"},      {L"^R", L"em-inc-search-prev"}, {L"\\e[1;5D", L"ed-prev-word"},
      {L"\\e[1;5C", L"em-next-word"},  {L"\\e[H", L"ed-move-to-beg"},  {L"\\e[F", L"ed-move-to-end"},
      {L"\\e[1~", L"ed-move-to-beg"},  {L"\\e[4~", L"ed-move-to-end"}, {L"\\e[3~", L"ed-delete-next-char"},
      {L"^W", L"ed-delete-prev-word"},
  };
  for (const auto& key : keys) el_wset(el, EL_BIND, key[0], key[1], nullptr);
  el_wset(el, EL_BIND, L"-s", L"\\e[201~", L"", nullptr);

  history = history_winit();
  HistEventW event;
  history_w(history, &event, H_SETSIZE, kMaxHistory);
  history_w(history, &event, H_SETUNIQUE, 1);
  el_wset(el, EL_HIST, history_w, history);
  std::error_code ec;
  if (options.history_file.empty()) return;
  const fs::file_status status = fs::status(options.history_file, ec);
  if (!fs::exists(status)) {
    fs::create_directories(options.history_file.parent_path(), ec);
    return;
  }
  if (fs::is_regular_file(status) && fs::file_size(options.history_file, ec) == 0) return;
  if (fs::is_regular_file(status) && history_w(history, &event, H_LOAD, options.history_file.c_str()) >= 0) return;
  log_warning(options.history_file.string(), ": cannot be read as history; what is typed is not written to it");
  options.history_file.clear();
}

LineEditor::Line::Kind LineEditor::Impl::wait() {
  for (;;) {
    if (tools::take_interrupts() > 0) return Line::Kind::interrupted;
    if (tools::asked_to_end()) return Line::Kind::asked_to_end;
    if (el && tools::take_window_changed()) el_resize(el);
    if (el && tools::take_continued()) {
      el_wset(el, EL_PREP_TERM, 1);
      el_wset(el, EL_REFRESH);
    }
    pollfd fds[2] = {{STDIN_FILENO, POLLIN, 0}, {tools::wake_fd(), POLLIN, 0}};
    if (poll(fds, 2, -1) < 0 && errno != EINTR) fail(ErrorKind::io, "poll: ", std::strerror(errno));
    tools::drain_wake_fd();
    if (fds[0].revents && !fds[1].revents) return Line::Kind::text;
  }
}

// One letter, as libedit wants it: 1, or 0 at the end of input, or -1.
int LineEditor::Impl::read_character(wchar_t* out) {
  std::string bytes;
  for (;;) {
    outcome = wait();
    if (outcome != Line::Kind::text) {
      const LineInfoW* line = el_wline(el);
      was_typing = line->lastchar != line->buffer;
      return -1;
    }
    char byte = 0;
    const ssize_t n = ::read(STDIN_FILENO, &byte, 1);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (n <= 0) return 0;
    bytes.push_back(byte);
    if (utf8_whole_prefix(bytes) == 0) continue;  // inside a letter
    if (!is_valid_utf8(bytes)) {
      bytes.clear();
      continue;
    }
    size_t pos = 0;
    *out = wchar_t(next_code_point(bytes, pos));
    return 1;
  }
}

// Everything up to the end mark goes into the line, line feeds as well.
void LineEditor::Impl::paste() {
  static constexpr std::wstring_view kEnd = L"\x1b[201~";
  std::wstring text;
  wchar_t c;
  while (!text.ends_with(kEnd)) {
    if (el_wgetc(el, &c) != 1 || text.size() > kMaxLineBytes) return;
    text.push_back(c);
  }
  text.resize(text.size() - kEnd.size());
  std::wstring clean;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == L'\r') {
      if (i + 1 >= text.size() || text[i + 1] != L'\n') clean.push_back(L'\n');
    } else if (text[i] == L'\t') {
      clean += L"    ";
    } else if (text[i] == L'\n' || (text[i] >= 0x20 && text[i] != 0x7f)) {
      clean.push_back(text[i]);
    }
  }
  if (clean.ends_with(L'\n')) clean.pop_back();
  if (!clean.empty()) el_winsertstr(el, clean.c_str());
}

// True when a list was printed and the line must be shown anew.
bool LineEditor::Impl::complete() {
  const LineInfoW* line = el_wline(el);
  const std::string before = narrowed({line->buffer, size_t(line->cursor - line->buffer)});
  const Completion completion = options.complete ? options.complete(before) : Completion{};
  if (completion.words.empty()) {
    std::fputc('\a', options.screen);
    return false;
  }
  std::string common = completion.words.front();
  for (const std::string& word : completion.words)
    common.resize(size_t(std::mismatch(common.begin(), common.end(), word.begin(), word.end()).first - common.begin()));
  common.resize(utf8_whole_prefix(common));
  const size_t typed = before.size() - completion.begin;
  std::string more = common.size() > typed ? common.substr(typed) : "";
  if (completion.words.size() == 1 && !common.ends_with('/')) more += " ";
  if (!more.empty()) {
    el_winsertstr(el, widened(more).c_str());
    return false;
  }
  std::fprintf(options.screen, "\n%s",
               in_columns(completion.words, size_t(tools::terminal_width(options.screen))).c_str());
  return true;
}

LineEditor::Line LineEditor::Impl::read_plain() {
  for (;;) {
    const size_t end = plain.find('\n');
    if (end != std::string::npos) {
      Line line{Line::Kind::text, plain.substr(0, end), false};
      plain.erase(0, end + 1);
      if (!is_valid_utf8(line.text)) fail_input("standard input: not UTF-8 text");
      return line;
    }
    if (const Line::Kind kind = wait(); kind != Line::Kind::text) return {kind, "", false};
    char bytes[1 << 14];
    const ssize_t n = ::read(STDIN_FILENO, bytes, sizeof bytes);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail(ErrorKind::io, "standard input: ", std::strerror(errno));
    if (n == 0 && plain.empty()) return {Line::Kind::end_of_input, "", false};
    if (n == 0) plain.push_back('\n');
    plain.append(bytes, size_t(std::max<ssize_t>(n, 0)));
    if (plain.size() > kMaxLineBytes) fail_input("standard input: a line of more than ", human_bytes(kMaxLineBytes));
  }
}

// ---- the class ------------------------------------------------------------------------------------------------------

LineEditor::LineEditor(Options options) : impl_(std::make_unique<Impl>(std::move(options))) {
  if (tools::is_terminal(stdin)) impl_->start();
}

LineEditor::~LineEditor() = default;

bool LineEditor::is_terminal() const {
  return impl_->el != nullptr;
}

LineEditor::Line LineEditor::read(const std::string& prompt) {
  if (!impl_->el) return impl_->read_plain();
  const bool can_paste = std::strcmp(std::getenv("TERM"), "dumb") != 0;
  impl_->prompt = marked(prompt);
  const auto show = [&](const char* sequence) {
    if (can_paste) std::fputs(sequence, impl_->options.screen);
    std::fflush(impl_->options.screen);
  };
  impl_->outcome = Line::Kind::text;
  // Before the prompt is seen: a Ctrl+D typed while the terminal still collects lines would be lost.
  el_wset(impl_->el, EL_PREP_TERM, 1);
  show("\x1b[?2004h");
  int n = 0;
  const wchar_t* text = el_wgets(impl_->el, &n);
  show("\x1b[?2004l");
  if (!text || n <= 0) {
    if (impl_->outcome == Line::Kind::text) return {Line::Kind::end_of_input, "", false};
    return {impl_->outcome, "", impl_->was_typing};
  }
  std::wstring_view wide(text, size_t(n));
  if (wide.ends_with(L'\n')) wide.remove_suffix(1);
  return {Line::Kind::text, narrowed(wide), false};
}

void LineEditor::remember(const std::string& text) {
  if (!impl_->history || trim(text).empty()) return;
  HistEventW event;
  history_w(impl_->history, &event, H_ENTER, widened(text).c_str());
  if (!impl_->options.history_file.empty() &&
      history_w(impl_->history, &event, H_SAVE, impl_->options.history_file.c_str()) < 0)
    log_info(impl_->options.history_file.string(), ": history cannot be written");
}

}  // namespace l4::run
