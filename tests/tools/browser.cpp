#include "tools/browser.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <thread>

#include "base/base64.h"
#include "base/file.h"

namespace l4::test {

namespace {

constexpr int kPatienceMs = 30'000;  // of one call, on a machine that is busy

Json object(Json::Object members) {
  return Json(std::move(members));
}

const Json& member(const Json& json, const char* name) {
  const Json* found = json.find(name);
  REQUIRE_MESSAGE(found, name, " in ", dump_json(json));
  return *found;
}

}  // namespace

std::string Browser::program() {
  for (const char* name : {"chromium", "chromium-browser", "google-chrome"})
    for (const std::string& folder : split(std::getenv("PATH") ? std::getenv("PATH") : "", ':'))
      if (access((folder + "/" + name).c_str(), X_OK) == 0) return folder + "/" + name;
  return "";
}

Browser::Browser(int width, int height, bool dark) {
  int to[2], from[2];
  REQUIRE(pipe2(to, O_CLOEXEC) == 0);
  REQUIRE(pipe2(from, O_CLOEXEC) == 0);
  std::vector<std::string> words{program(),
                                 "--headless",
                                 "--no-sandbox",
                                 "--disable-gpu",
                                 "--disable-dev-shm-usage",
                                 "--remote-debugging-pipe",
                                 "--no-first-run",
                                 "--no-proxy-server",
                                 "--disable-background-networking",
                                 "--disable-component-update",
                                 "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
                                 "--user-data-dir=" + profile_.path().string(),
                                 "about:blank"};
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  pid_ = fork();
  if (pid_ == 0) {
    setpgid(0, 0);  // its children end with it
    // The protocol's descriptors are 3 and 4. What may lie there is moved away first.
    const int in = fcntl(to[0], F_DUPFD, 10), out = fcntl(from[1], F_DUPFD, 10), null = ::open("/dev/null", O_RDWR);
    dup2(null, 0), dup2(null, 1), dup2(null, 2);
    dup2(in, 3), dup2(out, 4);
    for (int fd = 5; fd < 256; ++fd) ::close(fd);
    execv(arguments[0], arguments.data());
    _exit(127);
  }
  ::close(to[0]), ::close(from[1]);
  to_ = to[1], from_ = from[0];

  const Json target = call("Target.createTarget", {{"url", "about:blank"}}, false);
  const Json attached =
      call("Target.attachToTarget", {{"targetId", member(target, "targetId")}, {"flatten", true}}, false);
  session_ = member(attached, "sessionId").as_string();
  for (const char* domain : {"Page.enable", "Runtime.enable", "Log.enable"}) call(domain, {});
  call("Emulation.setDeviceMetricsOverride",
       {{"width", width}, {"height", height}, {"deviceScaleFactor", 1}, {"mobile", false}});
  call("Emulation.setEmulatedMedia",
       {{"features", Json::Array{object({{"name", "prefers-color-scheme"}, {"value", dark ? "dark" : "light"}})}}});
}

Browser::~Browser() {
  ::close(to_);  // it ends where nobody asks any more
  ::close(from_);
  for (int i = 0; i < 200; ++i) {
    if (waitpid(pid_, nullptr, WNOHANG) == pid_) {
      kill(-pid_, SIGKILL);  // helpers of its group that are left
      return;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  kill(-pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
}

Json Browser::next_message() {
  size_t end;
  while ((end = bytes_.find('\0')) == std::string::npos) {
    pollfd p{from_, POLLIN, 0};
    REQUIRE_MESSAGE(poll(&p, 1, kPatienceMs) == 1, "the browser does not answer");
    char buffer[65536];
    const ssize_t n = ::read(from_, buffer, sizeof buffer);
    REQUIRE_MESSAGE(n > 0, "the browser has ended");
    bytes_.append(buffer, size_t(n));
  }
  Json message = parse_json(std::string_view(bytes_).substr(0, end), "DevTools");
  bytes_.erase(0, end + 1);
  const Json* method = message.find("method");
  if (!method) return message;
  const Json& parameters = member(message, "params");
  if (method->as_string() == "Page.loadEventFired") loaded_ = true;
  if (method->as_string() == "Runtime.exceptionThrown") problems_.push_back(dump_json(parameters));
  if (method->as_string() == "Log.entryAdded") {
    const Json& entry = member(parameters, "entry");
    if (member(entry, "level").as_string() == "error" && member(entry, "source").as_string() != "network")
      problems_.push_back(dump_json(entry));
  }
  return message;
}

Json Browser::call(const std::string& method, Json::Object parameters, bool of_page) {
  const int64_t id = ++last_id_;
  Json message(Json::Object{{"id", id}, {"method", method}, {"params", Json(std::move(parameters))}});
  if (of_page) message.set("sessionId", session_);
  std::string text = dump_json(message, JsonStyle::compact);
  text.push_back('\0');
  for (std::string_view rest = text; !rest.empty();) {
    const ssize_t n = ::write(to_, rest.data(), rest.size());
    REQUIRE_MESSAGE(n > 0, "the browser has ended");
    rest.remove_prefix(size_t(n));
  }
  while (true) {
    const Json answer = next_message();
    const Json* answered = answer.find("id");
    if (!answered || answered->as_integer() != id) continue;
    REQUIRE_MESSAGE(!answer.find("error"), method, ": ", dump_json(answer));
    return member(answer, "result");
  }
}

void Browser::open(const std::string& url) {
  loaded_ = false;
  call("Page.navigate", {{"url", url}});
  while (!loaded_) next_message();
}

Json Browser::evaluate(const std::string& expression) {
  const Json answer =
      call("Runtime.evaluate", {{"expression", expression}, {"awaitPromise", true}, {"returnByValue", true}});
  REQUIRE_MESSAGE(!answer.find("exceptionDetails"), expression, ": ", dump_json(answer));
  const Json* value = member(answer, "result").find("value");
  return value ? *value : Json();
}

void Browser::wait_for(const std::string& expression) {
  for (int i = 0; i < 1000; ++i) {
    const Json value = evaluate(cat("!!(", expression, ")"));
    if (value.as_bool()) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  FAIL("never true: ", expression, "; the page: ", dump_json(evaluate("document.body.innerText")));
}

void Browser::type(const std::string& text) {
  call("Input.insertText", {{"text", text}});
}

void Browser::press(const std::string& key) {
  const int code = key == "Enter" ? 13 : key == "Escape" ? 27 : key == "ArrowUp" ? 38 : 0;
  Json::Object parameters{{"type", "keyDown"}, {"key", key}, {"code", key}, {"windowsVirtualKeyCode", code}};
  if (key == "Enter") parameters.emplace_back("text", "\r");
  call("Input.dispatchKeyEvent", parameters);
  call("Input.dispatchKeyEvent", {{"type", "keyUp"}, {"key", key}, {"code", key}, {"windowsVirtualKeyCode", code}});
}

void Browser::click(const std::string& selector) {
  const Json at = evaluate(cat("(() => { const e = document.querySelector(", json_quote(selector),
                               "); e.scrollIntoView({block: 'nearest'}); const r = e.getBoundingClientRect(); "
                               "return [r.x + r.width / 2, r.y + r.height / 2]; })()"));
  for (const char* type : {"mouseMoved", "mousePressed", "mouseReleased"})
    call("Input.dispatchMouseEvent",
         {{"type", type}, {"x", at.as_array()[0]}, {"y", at.as_array()[1]}, {"button", "left"}, {"clickCount", 1}});
}

void Browser::screenshot(const std::string& name) {
  const char* folder = std::getenv("L4_SCREENSHOTS");
  if (!folder) return;
  const Json answer = call("Page.captureScreenshot", {{"format", "png"}});
  write_file_atomic(fs::path(folder) / (name + ".png"), from_base64(member(answer, "data").as_string()));
}

}  // namespace l4::test
