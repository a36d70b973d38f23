#include "tools/bench/stages.h"

namespace l4::bench {

const std::vector<std::string>& StageRecorder::names() {
  static const std::vector<std::string> kNames = {"qkv",        "attention, chunked", "attention, global", "attn_out",
                                                  "ffn_up",     "ffn_down",           "ffn_up, dense",     "ffn_down, dense",
                                                  "head"};
  return kNames;
}

const std::vector<StageRecorder::Call>& StageRecorder::calls(const std::string& name) const {
  static const std::vector<Call> kNone;
  const auto found = calls_.find(name);
  return found == calls_.end() ? kNone : found->second;
}

template <class Args>
void StageRecorder::pass_on(const std::string& name, const Args& args, void (Backend::*stage)(const Args&)) {
  (to_.*stage)(args);
  if (args.work->measuring()) return;
  // Scratch is taken from where it was taken in the step: behind everything that the arguments name.
  const size_t mark = args.work->mark();
  calls_[name].push_back({[this, args, stage, mark] {
                            const size_t before = args.work->mark();
                            args.work->release_to(mark);
                            (to_.*stage)(args);
                            args.work->release_to(before);
                          },
                          to_.kernel_of(args)});
}

void StageRecorder::qkv(const QkvArgs& args) {
  pass_on("qkv", args, &Backend::qkv);
}
void StageRecorder::attention(const AttentionArgs& args) {
  pass_on(args.kv.kind == AttentionKind::global ? "attention, global" : "attention, chunked", args, &Backend::attention);
}
void StageRecorder::attn_out(const AttnOutArgs& args) {
  pass_on("attn_out", args, &Backend::attn_out);
}
void StageRecorder::ffn_up(const FfnUpArgs& args) {
  pass_on(args.experts ? "ffn_up" : "ffn_up, dense", args, &Backend::ffn_up);
}
void StageRecorder::ffn_down(const FfnDownArgs& args) {
  pass_on(args.experts ? "ffn_down" : "ffn_down, dense", args, &Backend::ffn_down);
}
void StageRecorder::head(const HeadArgs& args) {
  pass_on("head", args, &Backend::head);
}

}  // namespace l4::bench
