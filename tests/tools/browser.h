// Chromium without a window, driven over the DevTools protocol through a pair of pipes. It may only reach 127.0.0.1.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "formats/json.h"
#include "support/test.h"

namespace l4::test {

class Browser {
 public:
  static std::string program();  // "" where there is none
  Browser(int width, int height, bool dark = false);
  ~Browser();
  Browser(const Browser&) = delete;
  Browser& operator=(const Browser&) = delete;

  void open(const std::string& url);  // and waits until it is loaded
  // The value of an expression, awaited where it is a promise. Fails the test where it throws.
  Json evaluate(const std::string& expression);
  void wait_for(const std::string& expression);  // until it is true; fails the test after ten seconds
  void type(const std::string& text);            // into what has the focus
  void press(const std::string& key);            // "Enter", "Escape", "ArrowUp"
  void click(const std::string& selector);       // with the mouse, in its middle
  // Errors of scripts and of the Content-Security-Policy so far, of failed requests none.
  const std::vector<std::string>& problems() const { return problems_; }
  // Writes $L4_SCREENSHOTS/NAME.png, for people to look at; nothing where that is not set.
  void screenshot(const std::string& name);

 private:
  Json call(const std::string& method, Json::Object parameters, bool of_page = true);
  Json next_message();

  TempDir profile_;
  int pid_ = -1, to_ = -1, from_ = -1;
  int64_t last_id_ = 0;
  bool loaded_ = false;
  std::string session_, bytes_;
  std::vector<std::string> problems_;
};

}  // namespace l4::test
