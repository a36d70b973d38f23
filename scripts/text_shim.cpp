// C entry points of core/text for compare_tokenizers.py, which compiles this against libl4core.a.
#include <cstring>
#include <string>
#include <vector>

#include "base/error.h"
#include "text/chat_template.h"
#include "text/pretokenize.h"
#include "text/tokenizer.h"

namespace {
thread_local std::string g_text;  // the last error or rendering
thread_local std::vector<int64_t> g_numbers;
}  // namespace

extern "C" {

const char* l4_text() {
  return g_text.c_str();
}
int64_t l4_text_bytes() {
  return int64_t(g_text.size());
}
const int64_t* l4_numbers() {
  return g_numbers.data();
}

// Null with l4_text() when the tokenizer is refused.
void* l4_load(const char* path) {
  try {
    return l4::Tokenizer::load(path).release();
  } catch (const l4::Error& e) {
    g_text = e.message();
    return nullptr;
  }
}

// The number of ids, which are in l4_numbers(), or -1 with l4_text().
int64_t l4_encode(const void* tokenizer, const char* text, int64_t n_bytes, int parse_special) {
  try {
    const auto ids = static_cast<const l4::Tokenizer*>(tokenizer)->encode(std::string_view(text, size_t(n_bytes)),
                                                                          parse_special != 0);
    g_numbers.assign(ids.begin(), ids.end());
    return int64_t(ids.size());
  } catch (const l4::Error& e) {
    g_text = e.message();
    return -1;
  }
}

// The number of pieces; their end offsets in bytes are in l4_numbers().
int64_t l4_split(const char* text, int64_t n_bytes) {
  static const l4::Pretokenizer pretokenizer;
  const std::string_view whole(text, size_t(n_bytes));
  g_numbers.clear();
  pretokenizer.split(whole,
                     [&](std::string_view piece) { g_numbers.push_back(piece.data() + piece.size() - whole.data()); });
  return int64_t(g_numbers.size());
}

// l4_text() is the prompt (0) or the error (1).
int l4_render(const char* request, const char* chat_template) {
  try {
    const auto which = l4::parse_chat_template_name(chat_template);
    g_text = l4::flat_text(l4::render_chat(which, l4::chat_request_from_json(l4::parse_json(request, "request"))));
    return 0;
  } catch (const l4::Error& e) {
    g_text = e.message();
    return 1;
  }
}
}
