#include "tools/eval/run_task.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <unordered_map>

#include "base/error.h"
#include "tools/common/terminal.h"
#include "tools/eval/interrupt.h"

namespace l4::eval {

namespace {

using Clock = std::chrono::steady_clock;

std::string count(int64_t n) {
  return human_count(uint64_t(n));
}

std::string percent(int64_t part, int64_t of) {
  if (of == 0) return "-";
  const int64_t tenths = std::llround(1000.0 * double(part) / double(of));
  return cat(tenths / 10, ".", tenths % 10, " %");
}

class TaskRun {
 public:
  TaskRun(const Task& task, const Prompts& prompts, Respondent& respondent, RunWriter& writer, RunCounts& counts)
      : task_(task), prompts_(prompts), respondent_(respondent), writer_(writer), counts_(counts) {}

  void run() {
    counts_ = {};
    counts_.n_items = int64_t(task_.items.size());
    find_pending();
    const Clock::time_point begin = Clock::now();
    const auto stop_watch = [&] { counts_.seconds = std::chrono::duration<double>(Clock::now() - begin).count(); };
    try {
      show();
      fail_what_cannot_be_asked();
      respondent_.ask(
          int64_t(pending_.size()), [&](int64_t i) { return task_.items[pending_[size_t(i)]].query; },
          [&](int64_t i, Reply reply) { take(pending_[size_t(i)], std::move(reply)); });
    } catch (const Error& error) {
      stop_watch();
      throw Error(error.kind(), cat(error.message(), "; ", count(counts_.done()), " of ", count(counts_.n_items),
                                    " questions are done, --resume goes on from there"));
    } catch (...) {
      stop_watch();
      throw;
    }
    stop_watch();
  }

 private:
  void find_pending() {
    std::unordered_map<std::string, const Record*> kept;
    for (const Record& record : writer_.kept())
      if (record.answered()) kept.emplace(record.id, &record);
    for (size_t i = 0; i < task_.items.size(); ++i) {
      const auto found = kept.find(task_.items[i].id);
      if (found == kept.end()) {
        pending_.push_back(i);
        continue;
      }
      const Record& record = *found->second;
      if (record.prompt_sha256 != prompts_.hashes[i])
        fail(ErrorKind::usage, writer_.path().string(), ": question ", shown(record.id),
             " was asked with another prompt; --force begins anew");
      ++counts_.kept;
      add(record);
      kept.erase(found);
    }
    if (!kept.empty())
      fail(ErrorKind::usage, writer_.path().string(), ": question ", shown(kept.begin()->first),
           " is none of this task's; --force begins anew");
  }

  // Pictures that are not there.
  void fail_what_cannot_be_asked() {
    std::erase_if(pending_, [&](size_t i) {
      const std::string& problem = prompts_.problems[i];
      if (problem.empty()) return false;
      ++counts_.missing_pictures;
      Reply reply;
      reply.error = problem;
      reply.attempts = 0;
      take(i, std::move(reply));
      return true;
    });
  }

  void take(size_t i, Reply reply) {
    const Item& item = task_.items[i];
    Record record{item.id, item.group, prompts_.hashes[i], item.target, std::move(reply), {}};
    if (record.answered()) record.score = task_.score(item, record.reply.text);
    writer_.append(record);
    counts_.prompt_tokens += record.reply.prompt_tokens;
    counts_.completion_tokens += record.reply.completion_tokens;
    add(record);
    show();
  }

  void add(const Record& record) {
    if (!record.answered()) {
      ++counts_.failed;
      return;
    }
    ++counts_.answered;
    counts_.right += record.right();
    counts_.without_answer += !record.score.extracted;
  }

  void show() {
    std::string note;
    if (counts_.answered > 0) note = cat(percent(counts_.right, counts_.answered), " right");
    if (counts_.failed > 0) note += cat(note.empty() ? "" : ", ", count(counts_.failed), " failed");
    progress_.items(task_.name, "questions", counts_.done(), counts_.n_items, counts_.kept, note);
  }

  const Task& task_;
  const Prompts& prompts_;
  Respondent& respondent_;
  RunWriter& writer_;
  RunCounts& counts_;
  std::vector<size_t> pending_;  // items
  tools::ProgressLine progress_;
};

}  // namespace

RunHeader header_of(const Task& task, const std::string& model, uint64_t seed, Json settings) {
  RunHeader header;
  header.task = task.name;
  header.recipe = task.recipe;
  header.version = task.version;
  header.group_name = task.group_name;
  header.groups_weigh_by_size = task.groups_weigh_by_size;
  header.shots = task.shots;
  header.model = model;
  header.n_items = int64_t(task.items.size());
  header.seed = seed;
  header.settings = std::move(settings);
  header.bad_lines = task.bad_lines;
  return header;
}

Prompts look_at_prompts(const Task& task) {
  if (task.items.empty()) fail_input(task.name, ": expected questions, found none");
  Prompts prompts;
  std::unordered_map<std::string, size_t> first;
  for (size_t i = 0; i < task.items.size(); ++i) {
    const Item& item = task.items[i];
    if (!first.emplace(item.id, i).second) fail_input(task.name, ": two questions have the id ", shown(item.id));
    std::string hash, problem;
    try {
      hash = prompt_hash(item.query);
    } catch (const Error& error) {
      problem = error.message();
    }
    prompts.hashes.push_back(std::move(hash));
    prompts.problems.push_back(std::move(problem));
  }
  return prompts;
}

void run_task(const Task& task, const Prompts& prompts, Respondent& respondent, RunWriter& writer, RunCounts& counts) {
  TaskRun(task, prompts, respondent, writer, counts).run();
}

std::string describe(const RunCounts& c, const Task& task) {
  std::string out = cat(count(c.n_items), " questions: ", count(c.answered), " answered (", count(c.right), " right, ",
                        count(c.answered - c.right), " wrong, of these ", count(c.without_answer),
                        " without an answer in them), ", count(c.failed), " failed");
  if (c.missing_pictures > 0) out += cat(" (", count(c.missing_pictures), " of these: the picture is missing)");
  if (c.done() < c.n_items) out += cat(", ", count(c.n_items - c.done()), " not asked");
  out += cat("; ", count(int64_t(task.bad_lines.size())), " lines of the data could not be used\n");
  if (c.kept > 0) out += cat(count(c.kept), " answers are of the run before\n");
  if (c.completion_tokens == 0) return out;  // nothing was asked, or an endpoint that does not count
  const auto rate = [&](int64_t n) { return count(std::llround(double(n) / std::max(c.seconds, 1e-3))); };
  out += cat("prompts ", count(c.prompt_tokens), " tokens, ", rate(c.prompt_tokens), "/s; answers ",
             count(c.completion_tokens), " tokens, ", rate(c.completion_tokens), "/s; ",
             double(std::llround(c.seconds * 100)) / 100, " s\n");
  return out;
}

}  // namespace l4::eval
