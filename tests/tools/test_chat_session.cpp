#include "support/test.h"
#include "tools/run/chat_session.h"

using l4::ChatMessage;
using l4::ContentPart;
using l4::run::ChatSession;
using l4::test::error_of;

namespace {

std::vector<std::string> roles(const ChatSession& session) {
  std::vector<std::string> out;
  for (const ChatMessage& message : session.messages()) out.push_back(message.role);
  return out;
}

std::string text(const ChatMessage& message) {
  return std::get<std::string>(message.content);
}

using Roles = std::vector<std::string>;

}  // namespace

TEST_CASE("chat_session: the system message is the first, replaced and removed") {
  ChatSession s;
  CHECK(s.system() == "");
  s.add_user("hi");
  s.set_system("Be brief.");
  CHECK(roles(s) == Roles{"system", "user"});
  s.set_system("Be long.");
  CHECK(roles(s) == Roles{"system", "user"});
  CHECK(s.system() == "Be long.");
  s.clear();
  CHECK(roles(s) == Roles{"system"});
  s.set_system("");
  CHECK(s.messages().empty());
}

TEST_CASE("chat_session: going back") {
  ChatSession s;
  CHECK(!s.undo());
  CHECK(!s.drop_answer());
  s.set_system("S");
  CHECK(!s.undo());
  s.add_user("one");
  s.add_assistant("1");
  s.add_user("two");
  s.add_assistant("2");
  CHECK(s.n_turns() == 2);
  CHECK(s.drop_answer());
  CHECK(text(s.messages().back()) == "two");
  CHECK(s.drop_answer());  // there is none: the message stays
  CHECK(text(s.messages().back()) == "two");
  CHECK(s.undo());
  CHECK(roles(s) == Roles{"system", "user", "assistant"});
  CHECK(s.undo());
  CHECK(!s.undo());
  CHECK(roles(s) == Roles{"system"});
}

TEST_CASE("chat_session: pictures and files go with the next message, pictures first") {
  ChatSession s;
  const std::string url = s.attach_image("/a/../b/dog.jpg");
  CHECK(url == "file:///b/dog.jpg");
  s.attach_text("file text\n");
  s.attach_text("other");
  CHECK(s.has_attachments());
  s.add_user("question");
  CHECK(!s.has_attachments());
  const auto& parts = std::get<std::vector<ContentPart>>(s.messages().back().content);
  REQUIRE(parts.size() == 2);
  CHECK(parts[0].kind == ContentPart::Kind::image);
  CHECK(parts[0].image_url == url);
  CHECK(parts[1].text == "file text\n\nother\n\nquestion");
  s.add_user("next");
  CHECK(text(s.messages().back()) == "next");
  s.attach_text("x");
  s.clear();
  CHECK(!s.has_attachments());
}

TEST_CASE("chat_session: what was written is read back equal") {
  ChatSession s;
  s.set_system("S \"quoted\"\n");
  s.attach_image("/b/dog.jpg");
  s.add_user("日本語\tand \\ more");
  s.add_assistant("A dog.");
  ChatSession back;
  back.add_user("gone");
  back.load_json(l4::parse_json(dump_json(s.to_json(), l4::JsonStyle::python, 2), "saved"));
  CHECK(roles(back) == roles(s));
  CHECK(dump_json(back.to_json()) == dump_json(s.to_json()));
  CHECK(std::get<std::vector<ContentPart>>(back.messages()[1].content)[0].image_url == "file:///b/dog.jpg");
}

TEST_CASE("chat_session: a file that is no conversation is refused") {
  ChatSession s;
  s.add_user("stays");
  for (const char* bad : {"[]", "{}", R"({"messages": 3})", R"({"messages": [{"role": "wizard", "content": "x"}]})",
                          R"({"messages": [{"role": "user", "content": 7}]})"}) {
    CAPTURE(std::string(bad));
    CHECK(error_of([&] { s.load_json(l4::parse_json(bad, "saved")); }) != "");
  }
  CHECK(text(s.messages().back()) == "stays");
}

TEST_CASE("chat_session: only files are pictures") {
  using l4::run::image_path;
  CHECK(image_path("file:///b/my dog.jpg") == "/b/my dog.jpg");
  CHECK(image_path("b/dog.jpg") == "b/dog.jpg");
  for (const char* bad : {"", "https://x/y.png", "data:image/png;base64,xx"})
    CHECK(error_of([&] { image_path(bad); }).find("must be files") != std::string::npos);
}
