// The web page at "/": a chat in one file (index.html beside this), which is part of the program.
#pragma once

#include <string>
#include <string_view>

namespace l4::serve {

struct WebPage {
  std::string_view html;
  // What must be sent with it, as the header Content-Security-Policy: its own script and style by their hashes,
  // requests to this server, pictures it was given; nothing else, and no text that becomes markup.
  std::string content_security_policy;
};
const WebPage& web_page();

}  // namespace l4::serve
