#include "tools/serve_process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <sstream>
#include <thread>

namespace l4::test {

using Clock = std::chrono::steady_clock;

ServeProcess::ServeProcess(std::vector<std::string> words) {
  words = tool("l4-serve", std::vector<std::string>{"--port", "0", "--served-model-name", "demo"} + words);
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  const std::string log_path = (dir_ / "log").string();
  pid_ = fork();
  REQUIRE(pid_ >= 0);
  if (pid_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);  // whatever becomes of the test
    const int log_fd = open(log_path.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
    dup2(log_fd, 1);
    dup2(log_fd, 2);
    execv(argv[0], argv.data());
    _exit(127);
  }
  for (const Clock::time_point end = Clock::now() + std::chrono::seconds(60); Clock::now() < end;) {
    const std::string text = log();
    if (const size_t at = text.find("ready at http");
        at != std::string::npos && text.find('\n', at) != std::string::npos) {
      url_ = text.substr(at + 9, text.find_first_of("\"\n", at) - at - 9);
      return;
    }
    int status = 0;
    if (waitpid(pid_, &status, WNOHANG) == pid_) {
      pid_ = -1;
      FAIL("l4-serve ended: ", text);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  FAIL("l4-serve does not become ready: ", log());
}

ServeProcess::~ServeProcess() {
  if (pid_ > 0) stop();
}

std::string ServeProcess::log() const {
  std::ifstream in(dir_.path() / "log");
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

int ServeProcess::stop(int signal) {
  kill(pid_, signal);
  int status = 0;
  for (const Clock::time_point end = Clock::now() + std::chrono::seconds(60);
       waitpid(pid_, &status, WNOHANG) != pid_;) {
    if (Clock::now() > end) kill(pid_, SIGKILL);
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  pid_ = -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int64_t ServeProcess::memory_bytes() const {
  std::ifstream in(l4::cat("/proc/", pid_, "/statm"));
  int64_t size = 0, resident = 0;
  in >> size >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

int64_t ServeProcess::n_descriptors() const {
  int64_t n = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(l4::cat("/proc/", pid_, "/fd"))) ++n;
  return n;
}

double ServeProcess::metric(const std::string& name) const {
  const tools::HttpAnswer answer = ask("/metrics", "", "GET");
  REQUIRE(answer.status == 200);
  double sum = 0;
  bool found = false;
  for (const std::string& line : split(answer.body, '\n')) {
    if (!line.starts_with(name) || line.size() == name.size()) continue;
    if (line[name.size()] != '{' && line[name.size()] != ' ') continue;
    sum += parse_double(line.substr(line.rfind(' ') + 1)).value_or(0);
    found = true;
  }
  REQUIRE_MESSAGE(found, name);
  return sum;
}

tools::HttpClientOptions client_of(const ServeProcess& server) {
  tools::HttpClientOptions options;
  options.base = tools::parse_url(server.url());
  options.silence_timeout_s = 300;
  return options;
}

tools::HttpAnswer ServeProcess::ask(const std::string& path, const std::string& body, const std::string& method,
                                    tools::HttpHeaders headers) const {
  tools::HttpClientOptions options = client_of(*this);
  options.headers = std::move(headers);
  tools::HttpClient client(options);
  tools::HttpCall call;
  call.method = method;
  call.path = path;
  call.body = body;
  return client.ask(std::move(call));
}

Json ServeProcess::ask_json(const std::string& path, const std::string& body) const {
  const tools::HttpAnswer answer = ask(path, body);
  CHECK_MESSAGE(answer.status == 200, answer.problem());
  return parse_json(answer.body, "answer");
}

std::string StreamedChat::text() const {
  return join(texts_, "\n\n");
}

void StreamedChat::add(std::string_view data) {
  ++n_events_;
  if (data == "[DONE]") {
    done_ = true;
    return;
  }
  const Json event = parse_json(data, "event");
  if (event.find("error")) failed_ = true;
  const Json* choices = event.find("choices");
  if (!choices) return;
  for (const Json& choice : choices->as_array()) {
    const auto index = size_t(choice.find("index")->as_integer());
    if (texts_.size() <= index) texts_.resize(index + 1);
    std::string& text = texts_[index];
    const Json& delta = *choice.find("delta");
    if (const Json* content = delta.find("content"); content && content->is_string()) text += content->as_string();
    if (const Json* calls = delta.find("tool_calls"))
      for (const Json& call : calls->as_array()) {
        const Json& function = *call.find("function");
        if (const Json* name = function.find("name")) text += l4::cat("\n", name->as_string(), " ");
        text += function.find("arguments")->as_string();
      }
    if (const Json* reason = choice.find("finish_reason"); reason && reason->is_string())
      text += l4::cat("\n(", reason->as_string(), ")");
  }
}

}  // namespace l4::test
