#include "tools/run/repl.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>

#include "base/log.h"
#include "base/version.h"
#include "tools/common/signals.h"
#include "tools/run/answer.h"
#include "tools/run/chat_session.h"
#include "tools/run/commands.h"
#include "tools/run/line_editor.h"
#include "tools/run/one_shot.h"
#include "tools/run/prompt_cache.h"
#include "tools/run/text_tasks.h"

namespace l4::run {

using tools::printable;
using tools::write_stdout;

namespace {

constexpr uint64_t kMaxSessionBytes = 256u << 20;

fs::path default_history_file() {
  const char* state = std::getenv("XDG_STATE_HOME");
  const char* home = std::getenv("HOME");
  if (state && *state) return fs::path(state) / "l4" / "history";
  if (home && *home) return fs::path(home) / ".local" / "state" / "l4" / "history";
  return {};
}

struct Totals {
  int64_t n_answers = 0, n_prompt = 0, n_cached = 0, n_generated = 0;
  double prompt_ms = 0, predicted_ms = 0;
  int64_t n_context = 0;  // of the last turn
};

class Repl {
 public:
  Repl(const RunOptions& options, Engine& engine);
  int run();

 private:
  // What a person reads that is no answer: on the terminal itself, or on stderr where answers are redirected.
  void say(std::string_view color, const std::string& text);
  void say(const std::string& text) { say("", text); }
  void complain(const std::string& text) { say(colors_.red, text); }

  std::optional<std::string> read_message();  // nothing: leave, with status_
  void on_line(const std::string& line);
  void on_command(const CommandLine& command);
  void send(const std::string& text);
  bool answer();  // false: it failed, and was said
  Prompt make_prompt();
  PreparedImage image(const std::string& image_url);
  void attach(CommandId kind, const std::string& argument);
  void change_system(const std::string& argument);
  void set(const std::string& argument);
  void save(const std::string& argument);
  void load(const std::string& argument);
  void show_stats();

  RunOptions options_;
  Engine& engine_;
  const Frontend& frontend_;
  const bool raw_;  // each line is a text to complete
  std::FILE* const screen_;
  const tools::Colors colors_;
  LineEditor editor_;
  ChatSession session_;
  PromptCache prompt_cache_;
  std::string text_to_complete_;  // raw
  std::map<std::string, PreparedImage> images_;
  Totals totals_;
  int64_t n_regenerated_ = 0;  // answers to the same message
  int n_interrupts_ = 0;       // in a row
  bool leaving_ = false;
  int status_ = 0;
};

LineEditor::Options editor_options(const RunOptions& options, std::FILE* screen) {
  LineEditor::Options out;
  out.screen = screen;
  if (!options.no_history)
    out.history_file = options.history_file.empty() ? default_history_file() : options.history_file;
  out.complete = complete_line;
  return out;
}

Repl::Repl(const RunOptions& options, Engine& engine)
    : options_(options),
      engine_(engine),
      frontend_(engine.frontend()),
      raw_(options.raw || !frontend_.chat_template()),
      screen_(tools::is_terminal(stdout) ? stdout : stderr),
      colors_(tools::colors_for(screen_, options.color)),
      editor_(editor_options(options, screen_)),
      prompt_cache_(options.prompt_cache, engine) {}

void Repl::say(std::string_view color, const std::string& text) {
  const std::string whole = color.empty() ? text + "\n" : cat(color, text, colors_.reset, "\n");
  std::fwrite(whole.data(), 1, whole.size(), screen_);
  std::fflush(screen_);
}

// ---- reading --------------------------------------------------------------------------------------------------------

// One message: lines go on after a backslash at the end, and between two marks of """.
std::optional<std::string> Repl::read_message() {
  constexpr std::string_view kMark = "\"\"\"";
  // libedit shows an escape sequence together with the letter behind it: the reset must not be the last.
  const std::string first_prompt = cat(colors_.green, ">", colors_.reset, " ");
  const std::string next_prompt = cat(colors_.dim, ".", colors_.reset, " ");
  std::string message;
  bool quoted = false, more = false;
  for (;;) {
    const LineEditor::Line line = editor_.read(more ? next_prompt : first_prompt);
    using Kind = LineEditor::Line::Kind;
    if (line.kind == Kind::asked_to_end) {
      status_ = 128 + tools::asked_to_end();
      return std::nullopt;
    }
    if (line.kind == Kind::end_of_input) {
      if (editor_.is_terminal()) say("");
      if (more && !message.empty()) return message;
      return std::nullopt;
    }
    if (line.kind == Kind::interrupted) {
      say("");
      if (++n_interrupts_ >= 2) {
        status_ = 130;
        return std::nullopt;
      }
      if (!line.was_typing && !more) say(colors_.dim, "(Ctrl+C once more leaves, and so does Ctrl+D)");
      message.clear();
      quoted = more = false;
      continue;
    }
    n_interrupts_ = 0;
    std::string text = line.text;
    if (!more && text.starts_with(kMark)) {
      quoted = more = true;
      text.erase(0, kMark.size());
    }
    if (quoted) {
      const bool ends = text.ends_with(kMark);
      if (ends) text.resize(text.size() - kMark.size());
      message += text;
      if (ends) return message;
      if (!message.empty()) message += "\n";
      continue;
    }
    more = text.ends_with('\\');
    if (more) text.back() = '\n';
    message += text;
    if (!more) return message;
  }
}

int Repl::run() {
  const std::string name = options_.model.load.model_dir.filename().string();
  if (editor_.is_terminal()) {
    say(colors_.bold,
        options_.model.is_demo ? "l4-run: the built-in demo model (-m DIR runs another)" : cat("l4-run: ", name));
    say(colors_.dim, engine_.summary());
    say(colors_.dim, raw_ ? "no chat: each text is completed as it is. /help lists commands, Ctrl+D leaves."
                          : "/help lists commands, Ctrl+C stops an answer, Ctrl+D leaves.");
  }
  session_.set_system(options_.system.value_or(""));
  for (const std::string& path : options_.images) attach(CommandId::image, path);
  if (options_.prompt) {
    say(cat(colors_.green, "> ", colors_.reset, printable(*options_.prompt)));
    send(*options_.prompt);
  }
  while (!leaving_) {
    const std::optional<std::string> message = read_message();
    if (!message) break;
    editor_.remember(*message);
    try {
      on_line(*message);
    } catch (const Error& e) {
      if (e.kind() == ErrorKind::device || e.kind() == ErrorKind::internal) throw;
      complain(cat("error: ", e.message()));
    }
  }
  prompt_cache_.save();
  return status_;
}

void Repl::on_line(const std::string& line) {
  if (const std::optional<CommandLine> command = parse_command(line)) return on_command(*command);
  if (trim(line).empty()) return;
  send(line.starts_with("//") ? line.substr(1) : line);
}

// ---- answering ------------------------------------------------------------------------------------------------------

PreparedImage Repl::image(const std::string& image_url) {
  PreparedImage& known = images_[image_url];
  if (!known) known = tools::read_image(frontend_, image_path(image_url));
  return known;
}

Prompt Repl::make_prompt() {
  if (raw_) return frontend_.prompt_from_text(text_to_complete_, options_.special);
  const ChatRequest request = session_.request();
  std::vector<PreparedImage> images;
  for (const ContentPart* part : image_parts(request)) images.push_back(image(part->image_url));
  return frontend_.prompt_from_chat(request, images);
}

void Repl::send(const std::string& text) {
  n_regenerated_ = 0;
  if (raw_) {
    text_to_complete_ = text;
    answer();
    return;
  }
  session_.add_user(text);
  if (!answer()) session_.undo();
}

bool Repl::answer() {
  GenerationOptions generation = options_.sampling.options(frontend_);
  generation.show_special = options_.special;
  generation.grammar = options_.compiled_grammar;
  if (options_.sampling.seed.value_or(-1) >= 0) generation.sampling.seed += uint64_t(n_regenerated_);
  Answer answer;
  tools::ProgressLine progress;
  try {
    const tools::NoEcho no_echo;
    AnswerView view;
    view.prompt = [&](const PromptProgress& p) { progress.tokens("reading", p.n_done, p.n_total); };
    view.text = [&](std::string_view text) {
      progress.clear();
      write_stdout(screen_ == stdout ? printable(text) : std::string(text));
    };
    Prompt prompt = make_prompt();
    answer = take_answer(engine_.start(prompt, generation), view);
    prompt_cache_.answered(std::move(prompt), answer);
  } catch (const Error& e) {
    progress.clear();
    if (e.kind() == ErrorKind::device || e.kind() == ErrorKind::internal) throw;
    complain(cat("error: ", e.message()));
    return false;
  }
  progress.clear();
  if (!answer.text.ends_with('\n') || screen_ != stdout) write_stdout("\n");
  n_interrupts_ = answer.interrupted;
  if (!raw_) session_.add_assistant(answer.text);

  const Finished& end = answer.finished;
  ++totals_.n_answers;
  totals_.n_prompt += end.usage.prompt_tokens;
  totals_.n_cached += end.usage.cached_tokens;
  totals_.n_generated += end.usage.completion_tokens;
  totals_.prompt_ms += end.timings.prompt_ms;
  totals_.predicted_ms += end.timings.predicted_ms;
  totals_.n_context = end.usage.prompt_tokens + end.usage.completion_tokens;
  const Tokenizer* tokenizer = &frontend_.tokenizer();
  if (generation.prompt_logprobs >= 0)
    say(cat("prompt:\n", printable(logprobs_table(answer.prompt_logprobs, tokenizer))));
  if (generation.sampling.n_logprobs >= 0) say(printable(logprobs_table(answer.tokens, tokenizer)));
  if (options_.stats || (editor_.is_terminal() && !options_.no_stats))
    say(colors_.dim, stats_line(answer, engine_.max_context()));
  if (answer.interrupted) say(colors_.dim, "(stopped; Ctrl+C once more leaves)");
  if (end.reason == FinishReason::length && totals_.n_context >= engine_.max_context())
    say(colors_.dim, "(the context is full: /undo or /clear makes room)");
  return true;
}

// ---- commands -------------------------------------------------------------------------------------------------------

void Repl::on_command(const CommandLine& command) {
  if (!command.id) {
    complain(cat("no command ", printable(command.name), "; /help lists them, // begins a text with a slash"));
    return;
  }
  switch (*command.id) {
    case CommandId::help:
      say(commands_help());
      break;
    case CommandId::image:
    case CommandId::read:
      attach(*command.id, command.argument);
      break;
    case CommandId::clear:
      session_.clear();
      images_.clear();
      say(colors_.dim, "(cleared)");
      break;
    case CommandId::regen:
      if (raw_ ? text_to_complete_.empty() : !session_.drop_answer())
        fail(ErrorKind::usage, "there is nothing to answer anew");
      ++n_regenerated_;
      answer();
      break;
    case CommandId::undo:
      if (!session_.undo()) fail(ErrorKind::usage, "there is nothing to take back");
      say(colors_.dim,
          cat("(taken back; ", session_.n_turns(), session_.n_turns() == 1 ? " message" : " messages", " left)"));
      break;
    case CommandId::system:
      change_system(command.argument);
      break;
    case CommandId::set:
      set(command.argument);
      break;
    case CommandId::save:
      save(command.argument);
      break;
    case CommandId::load:
      load(command.argument);
      break;
    case CommandId::stats:
      show_stats();
      break;
    case CommandId::quit:
      leaving_ = true;
      break;
  }
}

void Repl::attach(CommandId kind, const std::string& argument) {
  if (raw_) fail(ErrorKind::usage, "a completion takes text alone");
  const PathArgument given = parse_path_argument(argument);
  if (given.path.empty()) fail(ErrorKind::usage, "expected a path");
  if (kind == CommandId::image) {
    const PreparedImage tiles = tools::read_image(frontend_, given.path);
    const std::string url = session_.attach_image(given.path);
    images_[url] = tiles;
    if (given.rest.empty())
      say(colors_.dim, cat("(", printable(given.path), ": ", tiles->n_tiles, tiles->n_tiles == 1 ? " tile" : " tiles",
                           ", goes with the next message)"));
  } else {
    const std::string text = tools::read_text(given.path);
    session_.attach_text(text);
    if (given.rest.empty())
      say(colors_.dim,
          cat("(", printable(given.path), ": ", human_bytes(text.size()), ", goes with the next message)"));
  }
  if (!given.rest.empty()) send(given.rest);
}

void Repl::change_system(const std::string& argument) {
  if (raw_) fail(ErrorKind::usage, "a completion has no system message");
  if (argument.empty()) {
    say(session_.system().empty() ? cat(colors_.dim, "(no system message)", colors_.reset)
                                  : printable(session_.system()));
    return;
  }
  session_.set_system(argument == "-" ? "" : argument);
  say(colors_.dim, argument == "-" ? "(system message removed)" : "(system message set)");
}

// "temp 0.7" is the flag --temp 0.7.
void Repl::set(const std::string& argument) {
  if (!argument.empty()) {
    const size_t space = argument.find_first_of(" =\t");
    std::string name = cat("--", argument.substr(0, space)), program = "/set";
    std::string value(space == std::string::npos ? "" : trim(argument.substr(space + 1)));
    std::replace(name.begin(), name.end(), '_', '-');
    tools::SamplingFlags changed = options_.sampling;
    tools::Flags flags("/set", "", tools::Flags::Variables::ignored);
    tools::add_sampling_flags(flags, changed);
    std::string word = value.empty() ? name : cat(name, "=", value);
    if (!flags.knows(name)) fail(ErrorKind::usage, "no setting ", shown(name.substr(2)), "; /set shows what there is");
    char* words[] = {program.data(), word.data()};
    try {
      flags.parse(2, words);
      changed.options(frontend_);
    } catch (const Error& e) {  // "--temp: expected ...": there are no flags here
      throw Error(e.kind(), e.message().starts_with("--") ? e.message().substr(2) : e.message());
    }
    options_.sampling = changed;
  }
  const GenerationOptions now = options_.sampling.options(frontend_);
  const SamplingParams& p = now.sampling;
  say(colors_.dim, cat("temp ", p.temperature, ", top-k ", p.top_k, ", top-p ", p.top_p, ", min-p ", p.min_p,
                       ", repeat-penalty ", p.repetition_penalty, ", frequency-penalty ", p.frequency_penalty,
                       ", presence-penalty ", p.presence_penalty, ", max-tokens ", now.max_tokens, ", seed ",
                       options_.sampling.seed.value_or(-1) >= 0 ? cat(*options_.sampling.seed) : "random"));
}

void Repl::save(const std::string& argument) {
  const PathArgument given = parse_path_argument(argument);
  if (given.path.empty()) fail(ErrorKind::usage, "expected a path");
  write_file_atomic(given.path, dump_json(session_.to_json(), JsonStyle::python, 2) + "\n");
  say(colors_.dim,
      cat("(", session_.messages().size(), session_.messages().size() == 1 ? " message" : " messages", " written)"));
}

void Repl::load(const std::string& argument) {
  if (raw_) fail(ErrorKind::usage, "a completion has no conversation");
  const PathArgument given = parse_path_argument(argument);
  if (given.path.empty()) fail(ErrorKind::usage, "expected a path");
  ChatSession loaded;
  loaded.load_json(parse_json(read_file(given.path, kMaxSessionBytes), given.path));
  const ChatRequest request = loaded.request();
  frontend_.render(request);  // what the template cannot say is said now
  for (const ContentPart* part : image_parts(request)) image(part->image_url);
  session_ = std::move(loaded);
  say(colors_.dim,
      cat("(", session_.messages().size(), session_.messages().size() == 1 ? " message" : " messages", " read)"));
}

void Repl::show_stats() {
  const auto rate = [](int64_t n, double ms) { return ms > 0 ? double(int64_t(double(n) * 10000 / ms)) / 10 : 0.0; };
  say(engine_.summary());
  say(cat(session_.n_turns(), " messages, ", totals_.n_answers, " answers, ", human_count(uint64_t(totals_.n_context)),
          " of ", human_count(uint64_t(engine_.max_context())), " tokens of context used"));
  say(cat(human_count(uint64_t(totals_.n_prompt)), " prompt tokens (", human_count(uint64_t(totals_.n_cached)),
          " cached), ", rate(totals_.n_prompt - totals_.n_cached, totals_.prompt_ms), " tokens/s; ",
          human_count(uint64_t(totals_.n_generated)), " generated, ",
          rate(totals_.n_generated - totals_.n_answers, totals_.predicted_ms), " tokens/s"));
}

}  // namespace

int run_repl(const RunOptions& options) {
  if (options.raw && (options.system || !options.images.empty()))
    fail(ErrorKind::usage, "--raw: a completion takes text alone here, without --system and --image");
  const std::shared_ptr<const Frontend> frontend = load_frontend(options);
  options.sampling.options(*frontend);  // what is wrong in it is said before the weights are loaded, as in the prompt
  tools::read_images(*frontend, options.images);
  RunOptions ready = options;
  ready.compiled_grammar = compile_grammar(options.grammar, *frontend);
  if (options.prompt || !options.files.empty()) ready.prompt = prompt_text(options);
  ready.files.clear();
  const std::unique_ptr<Engine> engine = load_engine(options, frontend);
  Repl repl(ready, *engine);
  return repl.run();
}

}  // namespace l4::run
