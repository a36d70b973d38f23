#include "tools/serve/flags.h"

#include <algorithm>
#include <limits>

#include "base/log.h"

namespace l4::serve {

namespace {

using tools::Flags;
using tools::wrong_value;
using Seconds = ServerOptions::Seconds;

// What the whole command line has to be known for.
struct Pending {
  std::optional<int> port, io_threads, workers, max_logprobs;
  std::optional<int64_t> max_connections, max_requests;
};

void add_names(Flags& flags, const std::string& names, const std::string& value, const std::string& help,
               std::vector<std::string>* target) {
  flags.list(names, value, help, [target](const std::string& text) {
    for (std::string& name : tools::parse_names(text)) target->push_back(std::move(name));
  });
}

void add_seconds(Flags& flags, const std::string& names, const std::string& help, Seconds* target, double low) {
  flags.value(names, "SECONDS", help, [=](const std::string& text) {
    constexpr double kMost = 1e7;
    const std::optional<double> seconds = parse_double(text);
    if (!seconds || !(*seconds >= low && *seconds <= kMost)) wrong_value(cat("seconds, from ", low, " to ", kMost), text);
    *target = Seconds(*seconds);
  });
}

// A key a line; empty lines and those that begin with # do not count.
void read_keys(const std::string& path, std::vector<std::string>& keys) {
  const std::string text = read_file(path, 1 << 20);
  size_t n = 0;
  for (const std::string& line : split(text, '\n')) {
    const std::string_view key = trim(line);
    if (key.empty() || key[0] == '#') continue;
    keys.emplace_back(key);
    ++n;
  }
  if (n == 0) fail_input(path, ": no API key in it");
}

void add_service_flags(Flags& flags, ServeOptions& o) {
  tools::add_engine_flags(flags, o.model);
  flags.list("--prompt-cache", "FILE", "KV of a prompt that l4-run --prompt-cache wrote, known from the start; repeatable",
             [&o](const std::string& path) { o.prompt_caches.emplace_back(path); });
  flags.value("--step-timeout", "SECONDS", "end the process when a step takes longer (default 300; 0: never)",
              [&load = o.model.load](const std::string& text) {
                const std::optional<double> seconds = parse_double(text);
                if (!seconds || !(*seconds >= 0 && *seconds <= 1e7)) wrong_value("seconds from 0", text);
                load.step_limit_s = *seconds;
              });
}

void add_server_flags(Flags& flags, ServeOptions& o, Pending& p) {
  ServerOptions& s = o.server;
  flags.group("Server");
  flags.config_file("--config", "flags from a file: \"flag: value\" lines or a JSON object");
  flags.value("--host", "ADDRESS", "listen here; 0.0.0.0: on all (default 127.0.0.1)", [&s](const std::string& text) {
    if (text.empty()) wrong_value("an address or a name", text);
    s.host = text;
  });
  flags.number<int>("--port", "N", "0: any free one (default 8000)", &p.port, 0, 65535);
  add_names(flags, "-a,--alias,--served-model-name", "NAME",
            "the model's name in requests, the first in answers; repeatable (default: its folder's)",
            &o.served_model_names);
  add_names(flags, "--api-key", "KEY", "asked of all requests but /health, /ready and the page; repeatable", &s.api_keys);
  flags.list("--api-key-file", "FILE", "a key a line; not seen in the list of processes as --api-key is",
             [&s](const std::string& path) { read_keys(path, s.api_keys); });
  flags.path("--ssl-certfile,--ssl-cert-file", "FILE", "TLS: certificate chain, PEM", &s.tls_certificate);
  flags.path("--ssl-keyfile,--ssl-key-file", "FILE", "TLS: its private key, PEM", &s.tls_key);
  add_names(flags, "--allowed-origins", "ORIGINS",
            "pages of other origins that browsers may let ask, like https://chat.example; *: all (default none)",
            &s.allowed_origins);
  flags.toggle("--page,!--no-page,--webui,!--no-webui", "the chat page at / (default on)", &o.page);

  add_seconds(flags, "--sse-ping-interval", "a comment in streams that say nothing; 0: none (default 30)",
              &s.sse_ping_interval, 0);
  add_seconds(flags, "--drain-timeout,--timeout-graceful-shutdown",
              "after SIGTERM: for what runs to end (default 30)", &o.drain_timeout, 0);
  flags.number<int>("--io-threads", "N", "for connections (default 1 or 2)", &p.io_threads, 1, 64);
  flags.number<int>("--http-workers,--threads-http", "N", "for requests: JSON, templates, pictures (default: by cores)",
                    &p.workers, 1, 1024);

  flags.group("Limits");
  flags.number<int64_t>("--max-connections", "N", "open at once; more are told 503 (default 10000)", &p.max_connections, 1,
                        10'000'000);
  flags.number<int64_t>("--max-queue,--max-requests", "N", "requests running or waiting; more are told 429 (default 1024)",
                        &p.max_requests, 1, 10'000'000);
  flags.size("--max-body-size", "of a request: 413 (default 64M)", &s.max_body_bytes, 1024);
  flags.size("--max-body-memory", "of all requests that are read: 503 (default 1G)", &s.max_bodies_bytes, 1024);
  flags.size("--max-header-size,--h11-max-incomplete-event-size", "of a request: 431 (default 64K)", &s.max_header_bytes,
             1024);
  flags.size("--max-unsent-size", "of events that a reader leaves waiting before it is cut off (default 4M)",
             &s.max_unsent_bytes, 4096);
  add_seconds(flags, "--header-timeout", "for a request's header to come (default 30)", &s.header_timeout, 0.1);
  add_seconds(flags, "--body-timeout", "for its body, and a second more for each 16 KiB (default 60)", &s.body_timeout,
              0.1);
  add_seconds(flags, "--idle-timeout,--timeout-keep-alive", "between requests (default 75)", &s.idle_timeout, 0.1);
  add_seconds(flags, "--write-timeout,--timeout", "for a client to take some of an answer (default 60)",
              &s.write_timeout, 0.1);
}

void add_request_flags(Flags& flags, ServeOptions& o, Pending& p) {
  tools::add_media_flags(flags, o.media);
  flags.group("Requests");
  flags.number<int>("--max-logprobs", "N", "that a request may ask for a token (default 20)", &p.max_logprobs, 0, 1000);
}

void add_message_flags(Flags& flags, ServeOptions& o) {
  tools::add_log_flags(flags);
  flags.value("--log-format", "text|json", "of the lines on standard error (default text)", [&o](const std::string& name) {
    if (name != "text" && name != "json") wrong_value("text or json", name);
    o.log_format = name == "json" ? LogFormat::json : LogFormat::text;
  });
  flags.toggle("--access-log,!--no-access-log", "a line for each request, without its texts (default on)",
               &o.server.access_log);
  flags.toggle("--log-prompts", "and the texts, of prompts and answers (default off)", &o.log_prompts);
  flags.group("Instead of serving");
  flags.toggle("--dry-run", "what loading would take, without reading weights", &o.dry_run);
}

// The folder's name; of a path like "." too.
std::string name_of_model(const fs::path& dir) {
  std::error_code ec;
  const fs::path whole = fs::weakly_canonical(dir, ec);
  const std::string name = (whole.has_filename() ? whole : whole.parent_path()).filename().string();
  return name.empty() || !is_valid_utf8(name) ? "model" : name;
}

void complete(ServeOptions& o, const Pending& p) {
  const auto set = [](auto& field, const auto& given) {
    if (given) field = *given;
  };
  ServerOptions& s = o.server;
  set(s.port, p.port);
  set(s.io_threads, p.io_threads);
  set(s.workers, p.workers);
  set(s.max_connections, p.max_connections);
  set(s.max_requests, p.max_requests);
  set(o.max_logprobs, p.max_logprobs);
  if (s.tls_certificate.empty() != s.tls_key.empty())
    fail(ErrorKind::usage, "--ssl-certfile and --ssl-keyfile go together");
  if (!o.media.local_root.empty() && !fs::is_directory(o.media.local_root))
    fail(ErrorKind::io, "--allowed-local-media-path: ", shown(o.media.local_root.string()), " is no folder");
  o.model.complete();
  if (o.served_model_names.empty()) o.served_model_names = {o.model.is_demo ? "l4-demo" : name_of_model(o.model.load.model_dir)};
}

}  // namespace

std::optional<int> parse_serve_flags(int argc, char** argv, ServeOptions& options) {
  set_log_level(LogLevel::info);
  options.model.load.step_limit_s = 300;
  Pending pending;
  Flags flags("l4-serve", "Serve a Llama 4 model over HTTP: OpenAI's and Anthropic's APIs, and a chat page.");
  flags.usage("l4-serve [-m DIR] [--port N] [--config FILE]");
  flags.examples(
      "l4-serve -m Llama-4-Scout-17B-16E-Instruct --served-model-name scout\n"
      "l4-serve -m Llama-4-Scout-17B-16E-Instruct --host 0.0.0.0 --api-key-file keys.txt \\\n"
      "         --ssl-certfile cert.pem --ssl-keyfile key.pem\n"
      "l4-serve --config serve.yaml --log-format json");
  tools::add_model_flags(flags, options.model);
  add_service_flags(flags, options);
  add_server_flags(flags, options, pending);
  add_request_flags(flags, options, pending);
  tools::add_sampling_flags(flags, options.sampling);
  add_message_flags(flags, options);
  if (const std::optional<int> status = flags.parse(argc, argv)) return status;
  complete(options, pending);
  return std::nullopt;
}

}  // namespace l4::serve
