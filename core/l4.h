// l4: Llama 4 in one process. This file is all that a program needs to include.
//
// The mental model. Two objects:
//
//   Frontend   text and pictures -> token ids, and back. Needs only the small files of a checkpoint (config, tokenizer,
//              template). Immutable after loading; any number of threads may use it.
//   Engine     token ids -> token ids. Owns the weights, the KV cache, and one thread that runs steps of the model. It
//              serves many requests at once (engine/scheduler.h says who gets which rows of a step); any number of
//              threads may start them.
//
//     auto engine = Engine::load({.model_dir = "Llama-4-Scout-17B-16E-Instruct"});
//     ChatRequest chat = ...;
//     Prompt prompt = engine->frontend().prompt_from_chat(chat, images);
//     Generation answer = engine->start(std::move(prompt), {.max_tokens = 100});
//     while (auto event = answer.next())
//       std::cout << event->text;
//
// A Prompt is ids with each picture already expanded to its tokens, and the pictures' pixels beside them. A Generation
// is a stream of events: progress while the prompt is computed, then one event for each token, then one that says why
// it ended and what it cost. Text comes in whole UTF-8 characters; text that could be the beginning of a stop string is
// held back until it is known not to be. Dropping a Generation cancels it.
//
// The engine keeps the KV cache of earlier sequences while nobody needs its place: a prompt that begins like one of them
// (a conversation's next turn) is computed only from where it differs. "Like it" covers ids, pictures and cache_salt.
//
// Errors are l4::Error, one line that says what was expected and found. What is wrong with a request is thrown by the
// call that takes it; what goes wrong later ends the generation with FinishReason::error and the same kind of line.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "dist/topology.h"
#include "engine/engine_stats.h"
#include "engine/request.h"
#include "model/config.h"
#include "ops/sampling.h"
#include "tensor/view.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"
#include "vision/image.h"
#include "vision/tiling.h"

namespace l4 {

class Grammar;  // core/grammar/grammar.h

// ---- Text and pictures ----------------------------------------------------------------------------------------------

// A picture as the vision tower takes it. Shared: the same picture may stand in many prompts.
using PreparedImage = std::shared_ptr<const ImageTiles>;

struct Prompt {
  std::vector<int32_t> ids;  // image tokens expanded
  std::vector<ImageInput> images;
};

class Frontend {
 public:
  // Error{io | input | unsupported} naming the file. The chat template is the checkpoint's own unless one is given.
  // With ids_only a checkpoint without a tokenizer will do; what needs one then throws.
  static std::shared_ptr<const Frontend> load(const fs::path& model_dir, std::optional<ChatTemplate> chat_template = {},
                                              bool ids_only = false);
  virtual ~Frontend() = default;

  virtual const ModelConfig& config() const = 0;
  virtual bool has_tokenizer() const = 0;
  virtual const Tokenizer& tokenizer() const = 0;
  // Nothing: the checkpoint has none. Error{input} when it has one that is neither of ours.
  virtual std::optional<ChatTemplate> chat_template() const = 0;
  virtual bool takes_images() const = 0;

  // What the checkpoint's generation_config.json asks for; greedy where it asks for no sampling.
  virtual SamplingParams default_sampling() const = 0;

  // Decodes, tiles and normalises a picture file's bytes. `source` names it in errors. Error{unsupported} when the
  // model is text only. Takes milliseconds to a second: servers call it outside their event loop.
  virtual PreparedImage prepare_image(std::span<const std::byte> file, std::string_view source,
                                      const ImageLimits& limits = {}) const = 0;

  // The text that the model would get, image placeholders not expanded. Error{usage} without a chat template.
  virtual std::vector<TextSegment> render(const ChatRequest& chat) const = 0;

  // `images` in the order of image_parts(chat). Error{usage} when their number differs from the placeholders'.
  virtual Prompt prompt_from_chat(const ChatRequest& chat, std::span<const PreparedImage> images = {}) const = 0;
  // Plain completion: beginning-of-text (unless the text brings it), then the text. With parse_special the names of
  // special tokens in it become those tokens, and each <|image|> stands for a picture.
  virtual Prompt prompt_from_text(std::string_view text, bool parse_special = false,
                                  std::span<const PreparedImage> images = {}) const = 0;
  // Ids as they are; with images, each <|image|> id is expanded.
  virtual Prompt prompt_from_ids(std::vector<int32_t> ids, std::span<const PreparedImage> images = {}) const = 0;
};

// ---- Loading --------------------------------------------------------------------------------------------------------

enum class Device : uint8_t { automatic, cpu, cuda };
Device parse_device(std::string_view name);                         // auto|cpu|cuda; Error{usage}
std::optional<DType> parse_dtype_option(std::string_view name);     // auto (nothing)|float32|bfloat16; Error{usage}
bool parse_fp8_option(std::string_view name);  // auto (false)|fp8; Error{usage}
std::optional<DType> parse_kv_dtype_option(std::string_view name);  // auto (nothing)|bf16|fp8; Error{usage}
const char* dtype_option_name(DType dtype);                         // "float32", "bfloat16", "fp8"

struct LoadOptions {
  fs::path model_dir = {};
  Device device = Device::automatic;  // cuda where there is a GPU that we can use, and this build has CUDA
  std::vector<int> gpus = {};         // CUDA device of each rank; empty: the first ones that we can use
  bool cuda_graphs = true;            // decode steps recorded and replayed; without: the same bits, slower
  bool record_ahead = false;          // for all numbers of sequences when loading, not when they first come: servers
  std::optional<DType> dtype = {};    // of activations: f32 or bf16; nothing: as the checkpoint says
  bool fp8_attention = false, fp8_head = false;  // unquantised weights of attention, of the head: to FP8 as they are loaded
  // Of K and V in the cache: bf16 or f8_e4m3; nothing: f8_e4m3 where config.json asks for it, else as activations.
  std::optional<DType> kv_dtype = {};
  int64_t max_context = 0;            // tokens of prompt and answer; 0: the model's, or as much as fits
  int64_t max_num_seqs = 0;           // answers written at once; 0: 256 on GPUs, 16 on the CPU
  int64_t batch_tokens = 0;           // rows of the largest prefill step; 0: 8192 on GPUs, 512 on the CPU
  int64_t max_image_tiles = 0;        // tiles of the encoder cache; 0: one picture of the largest size
  int threads = 0;                    // of the CPU backend in all; 0: one per core
  // KV pages for max_num_seqs sequences of max_context tokens, or as many as fit (servers). Otherwise for one of them,
  // which others share while they are shorter.
  bool kv_fills_memory = false;
  bool prefix_cache = true;           // KV pages of what was computed are kept while nobody else needs them
  int ngram_speculation = 0;          // most drafts a sequence and step, looked up in what it has said; 0: off
  double step_limit_s = 0;            // a step that takes longer fails everything; 0: off. See on_stall
  // Results do not depend on what is computed beside them, nor on how a prompt is cut into steps: the CPU's never do.
  // GPUs' kernels otherwise add up in an order that follows the number of rows; this is slower (kernels/cuda/NOTES.md), and
  // with several GPUs wants such as reach each other's memory (Error{unsupported}).
  bool batch_invariant = false;
  Topology topology = {};
  std::optional<ChatTemplate> chat_template = {};  // nothing: the checkpoint's
  bool ids_only = false;                           // see Frontend::load()
  std::shared_ptr<const Frontend> frontend = {};   // of model_dir, loaded before; nothing: load() reads it
  // A step took longer than step_limit_s: all requests have been told. The thread that waits for the device cannot be
  // ended, nor can ~Engine() return: the program should. Called once, from a thread of the engine, with one line.
  std::function<void(const std::string& what)> on_stall = {};
  // From a loading thread, now and then.
  std::function<void(uint64_t bytes_done, uint64_t bytes_total)> on_progress = {};
  // Activations of every step by name (tools/eval/README.md), from a thread that runs the model; rows are the step's.
  // For finding where two implementations part: it makes steps slow.
  std::function<void(const std::string& name, const std::vector<float>& values, const Shape& shape)> on_activation = {};
};

// What loading would take, without weights at hand: tensors by part, KV cache, activations for each rank, the context
// that fits. Lines for people.
std::string describe_plan(const LoadOptions& options);

// ---- Generating -----------------------------------------------------------------------------------------------------

struct GenerationOptions {
  SamplingParams sampling = {};        // see Frontend::default_sampling()
  int64_t max_tokens = -1;             // -1: until the context is full
  int64_t min_tokens = 0;              // no stop id, eos or stop string counts before as many tokens
  bool ignore_eos = false;             // see Request
  std::vector<int32_t> stop_ids = {};  // besides the model's eos ids; their text is not part of the answer
  bool show_stop_id = false;           // but it is
  std::vector<std::string> stop = {};  // texts that end the answer; not part of it
  bool show_special = false;           // special tokens' names in the text
  std::vector<std::pair<int32_t, float>> logit_bias = {};
  int32_t prompt_logprobs = -1;  // see Request
  int32_t priority = 0;          // lower is served first
  std::string cache_salt = {};   // KV of earlier requests is reused among those with equal salts only
  std::shared_ptr<const Grammar> grammar = {};  // what may be said; none: anything
};

struct GenerationEvent {
  enum class Kind : uint8_t { prompt, token, finished };
  Kind kind = Kind::token;
  std::string text;                      // new text, whole characters; may be empty (any kind but prompt)
  TokenChoice token;                     // kind token: id and logprobs
  PromptProgress prompt;                 // kind prompt
  Finished finished;                     // kind finished
  std::optional<std::string> stop_text;  // kind finished, reason stop: the stop string that was found
};

// One answer being written. Movable; one thread at a time calls next(), any thread cancel().
class Generation {
 public:
  Generation();
  Generation(Generation&&) noexcept;
  Generation& operator=(Generation&&) noexcept;
  ~Generation();  // cancels what is not finished

  // Waits for the next event. Nothing after the finished one.
  std::optional<GenerationEvent> next();
  // Waits no longer than that; nothing also when no event came in time: done() tells which.
  std::optional<GenerationEvent> next(std::chrono::milliseconds timeout);
  bool done() const;  // the finished event was handed out
  void cancel();      // within one step of the model; the finished event says "cancelled"

 private:
  friend class Engine;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

class Engine {
 public:
  static std::unique_ptr<Engine> load(const LoadOptions& options);
  ~Engine();  // cancels everything; waits for the step that runs
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  const Frontend& frontend() const;
  const ModelConfig& config() const;
  int64_t max_context() const;
  // Of n_tokens each: how many the KV cache holds side by side, at most max_num_seqs.
  int64_t concurrent_sequences(int64_t n_tokens) const;
  std::string device() const;   // "CPU, 2 threads"
  std::string summary() const;  // one line: device, dtype, weights, KV cache, context

  // Error{usage} when the request cannot be served (no tokens, longer than the context, ids out of range, ...), also
  // Error{device} once the device has failed. `wake` is called from the engine's thread whenever an event is ready.
  // The last time may come after the Generation is gone. It must not throw.
  Generation start(Prompt prompt, const GenerationOptions& options, std::function<void()> wake = {});
  // n answers to one prompt, which is computed once. Their seeds are the options' seed, seed + 1, ...
  std::vector<Generation> start(Prompt prompt, const GenerationOptions& options, int n,
                                std::function<void()> wake = {});

  // KV to and from disk: of as much of a prompt as is known (after an answer to it: all but its last token), and into the
  // cache of earlier sequences, so that a prompt that begins like it is computed only from where it differs, bits and
  // all. A file is written whole or not at all; one of another model, of other types or ranks, or a damaged one is
  // refused, Error{input} naming file and field. Other requests wait meanwhile. How many tokens; nothing is written for 0.
  // Error{usage} without prefix_cache, Error{memory} when the KV cache has no room for it.
  int64_t save_prompt(const Prompt& prompt, const fs::path& file, const std::string& cache_salt = {});
  int64_t load_prompt(const fs::path& file, const std::string& cache_salt = {});

  // Counted since loading; any thread.
  EngineStats stats() const;

  // Logits of every prompt token, [T, vocab] float32, handed over in order as they are computed: `rows` holds the rows
  // from `first` on. Called from the engine's thread; returns when all is done.
  void logits(Prompt prompt, const std::function<void(int64_t first, std::span<const float> rows)>& on_rows);

 private:
  Engine();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace l4
