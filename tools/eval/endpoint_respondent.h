// Any OpenAI endpoint: chat completions, and completions where a text is continued. Temperature 0.
#pragma once

#include "tools/common/openai_endpoint.h"
#include "tools/eval/respondent.h"

namespace l4::eval {

struct EndpointOptions {
  tools::EndpointFlags endpoint;
  std::string model;        // empty: the first that the endpoint names
  int64_t concurrency = 0;  // questions at once; 0: 32
  int max_attempts = 5;     // see HttpClientOptions
  double first_wait_s = 0.5;
};

class EndpointRespondent final : public Respondent {
 public:
  // Error{io} in one line when nobody is there, or says that the key is not good.
  explicit EndpointRespondent(const EndpointOptions& options);

  std::string model() const override { return model_; }
  std::string device() const override { return client_.base.origin() + client_.base.path; }
  // Throws Interrupted too (interrupt.h). A question that the endpoint refuses, fails, garbles or leaves unanswered in
  // every attempt is its Reply's error; many in a row to which it said nothing at all are Error{io}: it is gone.
  void ask(int64_t n, const std::function<Query(int64_t)>& query,
           const std::function<void(int64_t, Reply)>& done) override;

 private:
  tools::HttpClientOptions client_;
  std::string model_;
  int64_t concurrency_;
};

// What is sent, and what came; for tests. Error{io | input | unsupported} for a picture that cannot be sent;
// Error{input} for an answer that is none.
std::string request_body(const Query& query, const std::string& model);
Reply read_reply(const std::string& body, bool chat);

}  // namespace l4::eval
