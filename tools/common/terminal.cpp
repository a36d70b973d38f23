#include "tools/common/terminal.h"

#include <signal.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "base/error.h"
#include "tools/common/signals.h"

namespace l4::tools {

bool is_terminal(std::FILE* stream) {
  return isatty(fileno(stream)) == 1;
}

bool can_redraw(std::FILE* stream) {
  const char* term = std::getenv("TERM");
  return is_terminal(stream) && term && *term && std::strcmp(term, "dumb") != 0;
}

int terminal_width(std::FILE* stream) {
  winsize size{};
  if (ioctl(fileno(stream), TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return is_terminal(stream) ? 80 : 100;
}

ColorMode parse_color_mode(const std::string& name) {
  if (name == "auto") return ColorMode::automatic;
  if (name == "always" || name == "on") return ColorMode::always;
  if (name == "never" || name == "off") return ColorMode::never;
  fail(ErrorKind::usage, "expected auto, always or never, found ", shown(name));
}

Colors colors_for(std::FILE* stream, ColorMode mode) {
  if (mode == ColorMode::automatic) {
    const char* no_color = std::getenv("NO_COLOR");
    mode = can_redraw(stream) && !(no_color && *no_color) ? ColorMode::always : ColorMode::never;
  }
  if (mode == ColorMode::never) return {};
  return {"\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[1;32m", "\x1b[36m", "\x1b[0m"};
}

std::string printable(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    const unsigned char c = static_cast<unsigned char>(text[i]);
    if ((c < 0x20 && c != '\n' && c != '\t') || c == 0x7f) continue;
    if (c == 0xC2 && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xA0) {  // U+0080 .. U+009F
      ++i;
      continue;
    }
    out.push_back(text[i]);
  }
  return out;
}

void write_stdout(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0) return;
  if (errno == EPIPE) end_now(128 + SIGPIPE);
  fail(ErrorKind::io, "standard output: ", std::strerror(errno));
}

// ---- progress -------------------------------------------------------------------------------------------------------

namespace {
std::string time_left(double seconds) {  // "1 h 5 min left", "3 min 20 s left", "20 s left"
  const int64_t s = int64_t(seconds + 0.5);
  if (s >= 3600) return cat(s / 3600, " h ", s % 3600 / 60, " min left");
  if (s >= 60) return cat(s / 60, " min ", s % 60, " s left");
  return cat(s, " s left");
}
}  // namespace

ProgressLine::ProgressLine(bool enabled) : enabled_(enabled && can_redraw(stderr)) {}

bool ProgressLine::due(bool at_end) {
  const auto now = Clock::now();
  if (!enabled_ || (!at_end && now - last_ < std::chrono::milliseconds(100))) return false;
  last_ = now;
  return true;
}

void ProgressLine::bytes(std::string_view what, uint64_t done, uint64_t total) {
  if (total == 0 || !due(done == total)) return;
  const double seconds = std::chrono::duration<double>(Clock::now() - begin_).count();
  std::string detail = cat(human_bytes(done), " / ", human_bytes(total));
  if (seconds > 0.2) detail += cat("  ", human_bytes(uint64_t(double(done) / seconds)), "/s");
  if (seconds > 2 && done > 0) detail += cat("  ", time_left(seconds * double(total - done) / double(done)));
  draw(what, double(done) / double(total), detail);
}

void ProgressLine::tokens(std::string_view what, int64_t done, int64_t total) {
  if (total == 0 || !due(false)) return;
  draw(what, double(done) / double(total),
       cat(human_count(uint64_t(done)), " / ", human_count(uint64_t(total)), " tokens"));
}

void ProgressLine::items(std::string_view what, std::string_view noun, int64_t done, int64_t total, int64_t done_before,
                         std::string_view note) {
  if (total == 0 || !due(done == total)) return;
  const double seconds = std::chrono::duration<double>(Clock::now() - begin_).count();
  std::string detail = cat(human_count(uint64_t(done)), " / ", human_count(uint64_t(total)), " ", noun);
  if (!note.empty()) detail += cat("  ", note);
  if (seconds > 2 && done > done_before)
    detail += cat("  ", time_left(seconds * double(total - done) / double(done - done_before)));
  draw(what, double(done) / double(total), detail);
}

void ProgressLine::draw(std::string_view what, double share, const std::string& detail) {
  const size_t width = size_t(std::max(terminal_width(stderr) - 1, 10));
  const std::string behind = cat("] ", int(share * 100), "%  ", detail);
  // The bar makes room for what can only be read.
  const int bar = std::clamp(int(width) - int(what.size() + 2 + behind.size()), 6, 24);
  const int filled = std::clamp(int(share * bar), 0, bar);
  std::string line = cat(what, " [", std::string(size_t(filled), '#'), std::string(size_t(bar - filled), '.'), behind);
  if (line.size() > width) line.resize(width);
  std::fprintf(stderr, "\r%s\x1b[K", line.c_str());
  std::fflush(stderr);
  drawn_ = true;
}

void ProgressLine::clear() {
  if (!drawn_) return;
  std::fputs("\r\x1b[K", stderr);
  std::fflush(stderr);
  drawn_ = false;
}

}  // namespace l4::tools
