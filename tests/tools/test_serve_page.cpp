#include <algorithm>
#include <mutex>

#include "support/test.h"
#include "tools/browser.h"
#include "tools/fake_endpoint.h"
#include "tools/serve/page/page.h"
#include "tools/serve_process.h"

using namespace l4;
using namespace l4::test;

namespace {

// A server of the page and of answers that a test puts in.
class PageServer {
 public:
  // Gets the connection and the request; must answer it.
  using Answer = std::function<void(const Json& body, FakeConnection& c)>;

  PageServer()
      : endpoint_([this](const FakeRequest& r, FakeConnection& c) {
          const serve::WebPage& page = serve::web_page();
          if (r.path == "/") {
            return c.answer(200, page.html, cat("Content-Security-Policy: ", page.content_security_policy, "\r\n"),
                            "text/html; charset=utf-8");
          }
          const auto key = r.headers.find("authorization");
          if (!needs_key_.empty() && (key == r.headers.end() || key->second != needs_key_))
            return c.answer(401,
                            R"({"error": {"message": "This server needs an API key.", "code": "invalid_api_key"}})");
          if (r.path == "/v1/models") return c.answer(200, R"({"data": [{"id": "Scout"}, {"id": "Maverick"}]})");
          Answer answer;
          const Json body = parse_json(r.body, "request");
          {
            const std::lock_guard lock(mutex_);
            bodies_.push_back(body);
            answer = answer_;
          }
          answer(body, c);
        }) {}

  std::string url() const { return endpoint_.url() + "/"; }
  void answer_with(Answer answer) {
    const std::lock_guard lock(mutex_);
    answer_ = std::move(answer);
  }
  // Text cut into pieces of a few bytes of UTF-8 whole, as tokens come.
  void say(const std::string& text) {
    answer_with([text](const Json&, FakeConnection& c) { stream(text, c); });
  }
  static void stream(const std::string& text, FakeConnection& c) {
    c.begin_events();
    c.event(R"({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": null}]})");
    for (size_t i = 0; i < text.size();) {
      size_t n = std::min<size_t>(5, text.size() - i);
      while (i + n < text.size() && (uint8_t(text[i + n]) & 0xC0) == 0x80) ++n;
      piece(text.substr(i, n), c);
      i += n;
    }
    c.event(R"({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})");
    c.event(R"({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 42}})");
    c.event("[DONE]");
    c.end_events();
  }
  static void piece(const std::string& text, FakeConnection& c) {
    c.event(
        cat(R"({"choices": [{"index": 0, "delta": {"content": )", json_quote(text), R"(}, "finish_reason": null}]})"));
  }
  void need_key(const std::string& key) { needs_key_ = "Bearer " + key; }
  Json last_body() {
    const std::lock_guard lock(mutex_);
    REQUIRE(!bodies_.empty());
    return bodies_.back();
  }
  size_t n_bodies() {
    const std::lock_guard lock(mutex_);
    return bodies_.size();
  }

 private:
  std::mutex mutex_;
  Answer answer_;
  std::vector<Json> bodies_;
  std::string needs_key_;
  FakeEndpoint endpoint_;
};

void need_browser() {
  if (Browser::program().empty()) L4_SKIP("chromium");
}

void open_page(Browser& browser, PageServer& server) {
  browser.open(server.url());
  browser.wait_for("document.querySelector('#model').value");
}

// Writes, sends, waits for the whole answer.
void ask(Browser& browser, const std::string& text) {
  browser.click("#input");
  browser.type(text);
  browser.press("Enter");
  browser.wait_for("document.querySelector('.message:last-child.assistant .tools')");
}

std::string text_of(Browser& browser, const std::string& selector) {
  return browser
      .evaluate(cat("[...document.querySelectorAll(", json_quote(selector), ")].map(e => e.innerText).join('|')"))
      .as_string();
}

std::string messages(PageServer& server) {
  std::string out;
  const Json body = server.last_body();
  for (const Json& m : body.find("messages")->as_array())
    out += cat(m.find("role")->as_string(), ":",
               m.find("content")->is_string() ? m.find("content")->as_string() : "...", "|");
  return out;
}

void no_problems(Browser& browser) {
  for (const std::string& problem : browser.problems()) CHECK_MESSAGE(false, problem);
}

}  // namespace

TEST_CASE("web page: one file, nothing from elsewhere, a policy that allows nothing more") {
  const serve::WebPage& page = serve::web_page();
  const std::string html(page.html);
  CHECK(html.starts_with("<!doctype html>"));
  CHECK(html.ends_with("</html>\n"));
  for (const char* no : {"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(",
                         "src=\"", "@import", "url(", " style=\"", " onclick=\"", "<link rel=\"stylesheet"})
    CHECK_MESSAGE(html.find(no) == std::string::npos, no);
  // The one http address is the namespace of SVG, twice.
  size_t n_addresses = 0;
  for (size_t at = 0; (at = html.find("http://", at)) != std::string::npos; ++at) {
    CHECK(html.substr(at, 26) == "http://www.w3.org/2000/svg");
    ++n_addresses;
  }
  CHECK(n_addresses == 2);
  const std::string& policy = page.content_security_policy;
  CHECK(policy.starts_with("default-src 'none'; script-src 'sha256-"));
  for (const char* part : {"; style-src 'sha256-", "; connect-src 'self'", "; frame-ancestors 'none'",
                           "; require-trusted-types-for 'script'"})
    CHECK(policy.find(part) != std::string::npos);
  CHECK(policy.find("unsafe") == std::string::npos);
}

TEST_CASE("web page: an answer streams in as Markdown, and nothing a model writes becomes markup") {
  need_browser();
  PageServer server;
  Browser browser(1180, 860);
  server.say(
      "# Title\n\nSome **bold**, *thin*, ~~gone~~, `code <b>` and a [link](https://example.com/a_(b)).\nA new line, "
      "snake_case_name, 2 * 3 * 4, "
      "\\*no\\*.\n\n"
      "1. first\n2. second\n   - inner `x`\n   - [x] done\n\n> quoted\n> > twice\n\n"
      "| Name | Size |\n| :--- | ---: |\n| a \\| b | **1** |\n| c | 2 |\n\n"
      "```python\ndef f(x):  # why\n    return \"<b>\" + 12\n```\n\n---\n"
      "<img src=x onerror=\"window.hacked = 1\"> <script>window.hacked = 1</script>\n"
      "[a](javascript:window.hacked=1) ![p](https://example.com/p.png) [d](data:text/html,x) "
      "https://example.com/q?a=1.\n\n"
      "Ünïcode 日本語 🎉 **open");
  open_page(browser, server);
  CHECK(browser.evaluate("document.querySelector('#model').value").as_string() == "Scout");
  browser.screenshot("empty");
  ask(browser, "Hello\nthere");
  CHECK(text_of(browser, ".user .body") == "Hello\nthere");
  CHECK(text_of(browser, ".text h1") == "Title");
  CHECK(text_of(browser, ".text strong") == "bold|1");
  CHECK(text_of(browser, ".text em") == "thin");
  CHECK(text_of(browser, ".text del") == "gone");
  CHECK(text_of(browser, ".text :not(pre) > code") == "code <b>|x");
  CHECK(text_of(browser, ".text > p:nth-of-type(1)") ==
        "Some bold, thin, gone, code <b> and a link.\nA new line, snake_case_name, 2 * 3 * 4, *no*.");
  CHECK(text_of(browser, ".text > ol > li").starts_with("first|second\ninner x"));
  CHECK(text_of(browser, ".text ol ul > li") == "inner x|done");
  CHECK(browser.evaluate("document.querySelector('.task input').checked").as_bool());
  CHECK(text_of(browser, "blockquote blockquote") == "twice");
  CHECK(text_of(browser, ".text th") == "Name|Size");
  CHECK(text_of(browser, ".text td") == "a | b|1|c|2");
  CHECK(browser.evaluate("document.querySelectorAll('.text td.right').length").as_integer() == 2);
  CHECK(text_of(browser, "pre code") == "def f(x):  # why\n    return \"<b>\" + 12");
  CHECK(text_of(browser, "pre .k") == "def|return");
  CHECK(text_of(browser, "pre .c") == "# why");
  CHECK(text_of(browser, "pre .s") == "\"<b>\"");
  CHECK(text_of(browser, ".code header span") == "python");
  CHECK(browser.evaluate("document.querySelectorAll('.text hr').length").as_integer() == 1);
  CHECK(text_of(browser, ".text a") == "link|p|https://example.com/q?a=1");
  CHECK(browser.evaluate("[...document.querySelectorAll('.text a')].map(a => a.href + a.rel).join(' ')").as_string() ==
        "https://example.com/a_(b)noopener noreferrer nofollow https://example.com/p.pngnoopener noreferrer nofollow "
        "https://example.com/q?a=1noopener noreferrer nofollow");
  const std::string whole = text_of(browser, ".text");
  CHECK(whole.find("<img src=x onerror=\"window.hacked = 1\"> <script>window.hacked = 1</script>") !=
        std::string::npos);
  CHECK(whole.find("Ünïcode 日本語 🎉 **open") != std::string::npos);
  CHECK(browser.evaluate("document.querySelectorAll('.text img, .text script').length").as_integer() == 0);
  CHECK(browser.evaluate("typeof window.hacked").as_string() == "undefined");
  CHECK(text_of(browser, ".stats").starts_with("42 tokens · "));
  CHECK(messages(server) == "user:Hello\nthere|");
  CHECK(server.last_body().find("model")->as_string() == "Scout");
  CHECK(!server.last_body().find("temperature"));
  browser.screenshot("light");
  no_problems(browser);
}

TEST_CASE("web page: stop, regenerate, edit, and conversations that stay") {
  need_browser();
  PageServer server;
  Browser browser(1180, 860, true);
  std::atomic<bool> left{false};
  server.answer_with([&](const Json&, FakeConnection& c) {
    c.begin_events();
    PageServer::piece("Half of it", c);
    for (int i = 0; i < 5000 && !c.client_left(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    left = c.client_left();
    c.close();
  });
  open_page(browser, server);
  browser.click("#input");
  browser.type("Question one");
  browser.press("Enter");
  browser.wait_for("document.querySelector('.text').innerText === 'Half of it'");
  CHECK(browser.evaluate("document.querySelector('#send').ariaLabel").as_string() == "Stop");
  browser.click("#send");
  browser.wait_for("document.querySelector('.assistant .stats')");
  CHECK(text_of(browser, ".stats").starts_with("stopped"));
  for (int i = 0; i < 1000 && !left; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  CHECK(left);

  server.say("Answer two.");
  browser.click("[aria-label=Regenerate]");
  browser.wait_for("document.querySelector('.text').innerText === 'Answer two.'");
  browser.wait_for("document.querySelector('.assistant .stats')");
  CHECK(messages(server) == "user:Question one|");
  server.say("Answer three.");
  ask(browser, "Question two");
  CHECK(messages(server) == "user:Question one|assistant:Answer two.|user:Question two|");

  // The first question is edited: what came after it is gone.
  browser.click(".user [aria-label=Edit]");
  browser.evaluate("document.querySelector('.edit textarea').select()");
  browser.type("Question new");
  server.say("Answer new.");
  browser.press("Enter");
  browser.wait_for(
      "document.querySelector('.message:last-child .text')?.innerText === 'Answer new.' && "
      "document.querySelector('.stats')");
  CHECK(messages(server) == "user:Question new|");
  CHECK(text_of(browser, ".user .body") == "Question new");

  // Arrow up edits the last one; Escape leaves it as it is.
  browser.click("#input");
  browser.press("ArrowUp");
  browser.wait_for("document.querySelector('.edit textarea')?.value === 'Question new'");
  browser.press("Escape");
  CHECK(text_of(browser, ".user .body") == "Question new");

  // A second conversation, the page anew, back to the first.
  browser.click("#new");
  ask(browser, "Other talk");
  CHECK(text_of(browser, "#list .open") == "Other talk|Question one");
  browser.open(server.url());
  browser.wait_for("document.querySelectorAll('#list .open').length === 2");
  CHECK(text_of(browser, ".message") == "");
  browser.click("#list li:last-child .open");
  CHECK(text_of(browser, ".text") == "Answer new.");
  browser.screenshot("dark");

  // Deleted, and back.
  browser.click("#list li:last-child .delete");
  CHECK(text_of(browser, "#list .open") == "Other talk");
  browser.click("#note button");
  CHECK(text_of(browser, "#list .open") == "Other talk|Question one");
  no_problems(browser);
}

TEST_CASE("web page: pictures, settings, a narrow window") {
  need_browser();
  PageServer server;
  Browser browser(390, 780);
  server.say("I see.");
  open_page(browser, server);
  CHECK(browser.evaluate("document.documentElement.scrollWidth").as_integer() == 390);
  // A PNG of one point, dropped; then pasted.
  const std::string png =
      "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg==";
  browser.evaluate(
      cat("window.transfer = () => { const t = new DataTransfer(); t.items.add(new File([Uint8Array.from(atob('", png,
          "'), c => c.charCodeAt(0))], 'dot.png', {type: 'image/png'})); return t; }; 0"));
  browser.evaluate("document.dispatchEvent(new DragEvent('dragenter', {dataTransfer: transfer()}))");
  CHECK(!browser.evaluate("document.querySelector('#drop').hidden").as_bool());
  browser.evaluate("document.dispatchEvent(new DragEvent('drop', {dataTransfer: transfer(), cancelable: true}))");
  browser.wait_for("document.querySelectorAll('#attached img').length === 1");
  browser.evaluate(
      "document.dispatchEvent(new ClipboardEvent('paste', {clipboardData: transfer(), cancelable: true}))");
  browser.wait_for("document.querySelectorAll('#attached img').length === 2");
  browser.click("#attached figure:last-child button");
  browser.wait_for("document.querySelectorAll('#attached img').length === 1");

  browser.click("#settings");
  browser.evaluate("document.querySelector('[name=system]').focus()");
  browser.type("Be brief.");
  browser.evaluate("document.querySelector('[name=temperature]').focus()");
  browser.type("0.25");
  browser.evaluate("document.querySelector('[name=max_tokens]').focus()");
  browser.type("77");
  browser.screenshot("settings");
  browser.click("dialog .primary");
  browser.evaluate(
      "(() => { const m = document.querySelector('#model'); m.value = 'Maverick'; m.dispatchEvent(new "
      "Event('change')); })()");
  ask(browser, "What is it?");
  const Json body = server.last_body();
  CHECK(messages(server) == "system:Be brief.|user:...|");
  const Json& content = *body.find("messages")->as_array()[1].find("content");
  REQUIRE(content.as_array().size() == 2);
  CHECK(content.as_array()[0].find("image_url")->find("url")->as_string() == "data:image/png;base64," + png);
  CHECK(content.as_array()[1].find("text")->as_string() == "What is it?");
  CHECK(body.find("temperature")->as_number() == 0.25);
  CHECK(body.find("max_tokens")->as_number() == 77);
  CHECK(!body.find("seed"));
  CHECK(body.find("model")->as_string() == "Maverick");
  browser.screenshot("narrow");
  browser.click("#menu");
  browser.wait_for("document.querySelector('#side').getBoundingClientRect().x === 0");
  browser.screenshot("narrow-side");

  // All of it is still there in the page opened anew.
  browser.open(server.url());
  browser.wait_for(
      "document.querySelector('#model').value === 'Maverick' && document.querySelectorAll('#list .open').length");
  browser.click("#menu");
  browser.wait_for("document.querySelector('#side').getBoundingClientRect().x === 0");
  browser.click("#list .open");
  browser.wait_for("document.querySelector('.pictures img')?.naturalWidth === 1");
  ask(browser, "And now?");
  CHECK(messages(server) == "system:Be brief.|user:...|assistant:I see.|user:And now?|");
  no_problems(browser);
}

TEST_CASE("web page: errors are shown, a key is asked for") {
  need_browser();
  PageServer server;
  Browser browser(1180, 860);
  server.need_key("sesame");
  server.answer_with([](const Json&, FakeConnection& c) {
    c.answer(429, R"({"error": {"message": "The queue is full.", "code": "rate_limit_exceeded"}})");
  });
  browser.open(server.url());
  browser.wait_for("document.querySelector('#dialog').open && document.activeElement.name === 'key'");
  browser.type("sesame");
  browser.press("Enter");
  browser.wait_for("document.querySelector('#model').value === 'Scout'");
  CHECK(!browser.evaluate("document.querySelector('#dialog').open").as_bool());
  ask(browser, "Hi");
  CHECK(text_of(browser, ".error") == "The queue is full.");
  server.answer_with([](const Json&, FakeConnection& c) {
    c.begin_events();
    PageServer::piece("So f", c);
    c.event(R"({"error": {"message": "Out of pages."}})");
    c.end_events();
  });
  browser.click("[aria-label=Regenerate]");
  browser.wait_for("document.querySelector('.error')?.innerText === 'Out of pages.'");
  CHECK(text_of(browser, ".text") == "So f");
  std::atomic<bool> seen{false};
  server.answer_with([&](const Json&, FakeConnection& c) {
    c.begin_events();
    PageServer::piece("cut", c);
    for (int i = 0; i < 5000 && !seen; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    c.close();
  });
  browser.click("[aria-label=Regenerate]");
  browser.wait_for("document.querySelector('.text')?.innerText === 'cut'");
  seen = true;
  browser.wait_for("document.querySelector('.error')?.innerText === 'The connection ended before the answer did.'");
  CHECK(text_of(browser, ".text") == "cut");
  // An answer that failed without a word is not sent back to the model.
  server.answer_with([](const Json&, FakeConnection& c) { c.answer(500, "no JSON"); });
  browser.click("[aria-label=Regenerate]");
  browser.wait_for("document.querySelector('.error')?.innerText === 'no JSON'");
  server.say("Fine.");
  ask(browser, "Again");
  CHECK(messages(server) == "user:Hi|user:Again|");
  browser.screenshot("errors");
  no_problems(browser);
}

TEST_CASE("web page: text made to keep a renderer busy does not") {
  need_browser();
  PageServer server;
  Browser browser(1180, 860);
  open_page(browser, server);
  const auto times = [](const std::string& text, int n) {
    std::string out;
    for (int i = 0; i < n; ++i) out += text;
    return out;
  };
  for (const std::string& text :
       {times("*a ", 30'000), times("**a*b_", 20'000), times("[", 60'000), times("[a](", 20'000),
        times("`a``b", 20'000), times("<http://", 10'000), times("> ", 20'000), times("- ", 20'000),
        times("  ", 20'000) + "- x", times("|", 50'000), times("|a", 5'000) + "\n" + times("|-", 5'000) + "\n",
        times("- a\n  ", 3'000), times("1. a\n\n", 3'000), times("~~", 30'000), times("![", 30'000),
        times("\\", 60'000), "```\n" + times("\"a'b`/*#\n", 5'000), times("# ", 30'000), times("((", 30'000)}) {
    server.answer_with([&](const Json&, FakeConnection& c) {
      c.begin_events();
      PageServer::piece(text, c);
      c.event(R"({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})");
      c.event("[DONE]");
      c.end_events();
    });
    browser.click("#new");
    ask(browser, text.substr(0, 8) + "?");  // fails after ten seconds
  }
  no_problems(browser);
}

TEST_CASE("web page: as l4-serve sends it, and the demo's answer in it") {
  need_browser();
  const ServeProcess server;
  Browser browser(1000, 700);
  browser.open(server.url() + "/");
  browser.wait_for("document.querySelector('#model').value === 'demo'");
  ask(browser, "What is 2 + 3?");
  CHECK(text_of(browser, ".error") == "");
  const Json answer = server.ask_json(
      "/v1/chat/completions",
      R"({"model": "demo", "temperature": 0, "messages": [{"role": "user", "content": "What is 2 + 3?"}]})");
  browser.click("#settings");
  browser.evaluate("document.querySelector('[name=temperature]').focus()");
  browser.type("0");
  browser.press("Enter");
  browser.click("[aria-label=Regenerate]");
  browser.wait_for("document.querySelector('.stats')");
  const std::string text = answer.find("choices")->as_array()[0].find("message")->find("content")->as_string();
  CHECK(text_of(browser, ".text") == trim(text));
  no_problems(browser);
}
