// What a program shows on a terminal: colours, a progress bar, and nothing of either where there is no terminal.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>

namespace l4::tools {

bool is_terminal(std::FILE* stream);
bool can_redraw(std::FILE* stream);     // a terminal that knows escape sequences: TERM is neither empty nor dumb
int terminal_width(std::FILE* stream);  // columns; 100 where it is no terminal

enum class ColorMode { automatic, always, never };
ColorMode parse_color_mode(const std::string& name);  // auto|always|never; Error{usage}

// Escape sequences, or empty strings. Automatic: on a terminal, unless NO_COLOR is set or TERM is dumb. Whoever writes
// a colour writes its reset in the same call, so that no way of ending leaves a coloured terminal behind.
struct Colors {
  std::string_view bold, dim, red, green, cyan, reset;
  bool on() const { return !reset.empty(); }
};
Colors colors_for(std::FILE* stream, ColorMode mode);

// What a model wrote, made harmless for a terminal: control characters other than line feed and tab are left out, so
// that no answer moves the cursor or sets the window's title.
std::string printable(std::string_view text);

// All of it, at once; Error{io} when nobody can take it (a full disk). Where the reader of a pipe has left (`| head`)
// the process ends without a word, with the status of a broken pipe, 141.
void write_stdout(std::string_view text);

// One line that is rewritten, on stderr, only if that can_redraw(). Removed by clear() and the destructor.
class ProgressLine {
 public:
  explicit ProgressLine(bool enabled = true);
  ~ProgressLine() { clear(); }
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  void bytes(std::string_view what, uint64_t done, uint64_t total);  // with a rate, and what is left
  void tokens(std::string_view what, int64_t done, int64_t total);
  // With what is left by the speed of this run: done_before were done before it. `noun` is what they are called, `note`
  // stands behind the count, like a score.
  void items(std::string_view what, std::string_view noun, int64_t done, int64_t total, int64_t done_before,
             std::string_view note = {});
  void requests(std::string_view what, int64_t done, int64_t total, int64_t done_before) {
    items(what, "requests", done, total, done_before);
  }
  void clear();

 private:
  using Clock = std::chrono::steady_clock;
  bool due(bool at_end);  // redrawn at most ten times a second
  void draw(std::string_view what, double share, const std::string& detail);

  bool enabled_, drawn_ = false;
  Clock::time_point begin_ = Clock::now(), last_{};
};

}  // namespace l4::tools
