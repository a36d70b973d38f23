// l4-serve as people start it, with the demo model on a free port of loopback.
#pragma once

#include <string>
#include <vector>

#include "support/test.h"
#include "tools/common/http_client.h"
#include "tools/run_tool.h"

namespace l4::test {

class ServeProcess {
 public:
  // Waits until it is ready; fails the test where it is not. `words` come after --port 0 --served-model-name demo.
  explicit ServeProcess(std::vector<std::string> words = {});
  ~ServeProcess();  // stop()
  ServeProcess(const ServeProcess&) = delete;

  const std::string& url() const { return url_; }
  std::string log() const;
  int stop(int signal = 15);     // the exit status; 128 + n for death by signal n
  int64_t memory_bytes() const;  // resident
  int64_t n_descriptors() const;
  double metric(const std::string& name) const;  // the sum over its labels

  // Asked alone, on a connection of its own.
  tools::HttpAnswer ask(const std::string& path, const std::string& body, const std::string& method = "POST",
                        tools::HttpHeaders headers = {}) const;
  Json ask_json(const std::string& path, const std::string& body) const;  // status 200

 private:
  TempDir dir_;
  int pid_ = -1;
  std::string url_;
};

tools::HttpClientOptions client_of(const ServeProcess& server);

// What a chat's stream said, put together: content, calls, reasons. Answers of several choices one after the other.
class StreamedChat {
 public:
  void add(std::string_view data);
  bool is_done() const { return done_; }  // [DONE] came
  std::string text() const;
  int n_events() const { return n_events_; }
  bool failed() const { return failed_; }  // an error came

 private:
  std::vector<std::string> texts_;  // of each choice
  int n_events_ = 0;
  bool done_ = false, failed_ = false;
};

}  // namespace l4::test
