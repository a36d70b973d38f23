// A checkpoint in this process: as many questions at once as its engine takes, each token the likeliest.
#pragma once

#include "l4.h"
#include "tools/eval/respondent.h"

namespace l4::eval {

class EngineRespondent final : public Respondent {
 public:
  // Loads. `concurrency`: answers written at once, 0: what LoadOptions::max_num_seqs says. A few more are always in
  // the engine, rendered and tokenised, so that a place that becomes free is taken in the next step.
  EngineRespondent(LoadOptions load, int64_t concurrency);

  static std::string name_of(const fs::path& model_dir);  // model() of a checkpoint there
  std::string model() const override { return model_; }
  std::string device() const override { return engine_->device(); }
  // Throws Interrupted too (interrupt.h). Error{device} when the device failed; Error{usage} where a conversation is
  // asked of a checkpoint without a chat template.
  void ask(int64_t n, const std::function<Query(int64_t)>& query,
           const std::function<void(int64_t, Reply)>& done) override;

  const Engine& engine() const { return *engine_; }

 private:
  std::string model_;
  std::unique_ptr<Engine> engine_;
  int64_t max_in_flight_ = 1;
};

}  // namespace l4::eval
