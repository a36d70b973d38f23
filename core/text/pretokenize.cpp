#include "text/pretokenize.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <string>

#include "base/error.h"

namespace l4 {

const std::string_view kLlama4SplitPattern =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

namespace {

// The tokenizers of record (Hugging Face's, and OpenAI's tiktoken, which Meta's code calls) know Unicode 16.
// PCRE2 10.42, which current distributions carry, knows Unicode 14: these are the letters, marks and numbers added in
// between. They change nothing under a PCRE2 that knows them. scripts/compare_tokenizers.py checks every code point.
#define L4_NEW_UPPER R"(\x{1c89}\x{a7cb}-\x{a7cc}\x{a7da}\x{a7dc}\x{10d50}-\x{10d65})"
#define L4_NEW_LOWER R"(\x{1c8a}\x{a7cd}\x{a7db}\x{10d70}-\x{10d85}\x{1df25}-\x{1df2a})"
#define L4_NEW_UNCASED                                                                                \
  R"(\x{105c0}-\x{105f3}\x{10d4a}-\x{10d4f}\x{10d6f}\x{10ec2}-\x{10ec4}\x{1123f}-\x{11240})"          \
  R"(\x{11380}-\x{11389}\x{1138b}\x{1138e}\x{11390}-\x{113b5}\x{113b7}\x{113d1}\x{113d3})"            \
  R"(\x{11bc0}-\x{11be0}\x{11f02}\x{11f04}-\x{11f10}\x{11f12}-\x{11f33}\x{1342f}\x{13441}-\x{13446})" \
  R"(\x{13460}-\x{143fa}\x{16100}-\x{1611d}\x{16d40}-\x{16d6c}\x{18cff}\x{1b132}\x{1b155})"           \
  R"(\x{1e030}-\x{1e06d}\x{1e4d0}-\x{1e4eb}\x{1e5d0}-\x{1e5ed}\x{1e5f0}\x{2b739}\x{2ebf0}-\x{2ee5d})" \
  R"(\x{31350}-\x{323af})"
#define L4_NEW_MARK                                                                                     \
  R"(\x{897}\x{cf3}\x{ece}\x{10d69}-\x{10d6d}\x{10efc}-\x{10eff}\x{11241}\x{113b8}-\x{113c0}\x{113c2})" \
  R"(\x{113c5}\x{113c7}-\x{113ca}\x{113cc}-\x{113d0}\x{113d2}\x{113e1}-\x{113e2}\x{11f00}-\x{11f01})"   \
  R"(\x{11f03}\x{11f34}-\x{11f3a}\x{11f3e}-\x{11f42}\x{11f5a}\x{13440}\x{13447}-\x{13455})"             \
  R"(\x{1611e}-\x{1612f}\x{1e08f}\x{1e4ec}-\x{1e4ef}\x{1e5ee}-\x{1e5ef})"
#define L4_NEW_NUMBER                                                                                  \
  R"(\x{10d40}-\x{10d49}\x{116d0}-\x{116e3}\x{11bf0}-\x{11bf9}\x{11f50}-\x{11f59}\x{16130}-\x{16139})" \
  R"(\x{16d70}-\x{16d79}\x{1ccf0}-\x{1ccf9}\x{1d2c0}-\x{1d2d3}\x{1e4f0}-\x{1e4f9}\x{1e5f1}-\x{1e5fa})"

#define L4_LETTER R"(\p{L})" L4_NEW_UPPER L4_NEW_LOWER L4_NEW_UNCASED
#define L4_NUMBER R"(\p{N})" L4_NEW_NUMBER
#define L4_NOT_LOWER R"([\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M})" L4_NEW_UPPER L4_NEW_UNCASED L4_NEW_MARK "]"
#define L4_NOT_UPPER R"([\p{Ll}\p{Lm}\p{Lo}\p{M})" L4_NEW_LOWER L4_NEW_UNCASED L4_NEW_MARK "]"
// Unicode White_Space. PCRE2's own \s has U+180E besides, which stopped being a space in Unicode 6.3.
#define L4_SPACE R"(\x09-\x0d\x20\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})"
#define L4_BEFORE R"([^\r\n)" L4_LETTER L4_NUMBER "]?"
#define L4_SUFFIX "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"

// kLlama4SplitPattern with those classes; its alternatives leave no character unmatched, so every match is anchored.
constexpr std::string_view kPattern = L4_BEFORE L4_NOT_LOWER "*" L4_NOT_UPPER "+" L4_SUFFIX "|" L4_BEFORE L4_NOT_LOWER
                                                             "+" L4_NOT_UPPER "*" L4_SUFFIX "|[" L4_NUMBER
                                                             "]{1,3}"
                                                             "| ?[^" L4_SPACE L4_LETTER L4_NUMBER
                                                             "]+[\\r\\n/]*"
                                                             "|[" L4_SPACE
                                                             "]*[\\r\\n]+"
                                                             "|[" L4_SPACE "]+(?![^" L4_SPACE
                                                             "])"
                                                             "|[" L4_SPACE "]+";

std::string pcre2_message(int code) {
  unsigned char text[160];
  pcre2_get_error_message(code, text, sizeof text);
  return reinterpret_cast<const char*>(text);
}

}  // namespace

struct Pretokenizer::Compiled {
  pcre2_code* code = nullptr;
  ~Compiled() { pcre2_code_free(code); }
};

Pretokenizer::Pretokenizer() : compiled_(std::make_unique<Compiled>()) {
  int error = 0;
  PCRE2_SIZE at = 0;
  compiled_->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(kPattern.data()), kPattern.size(),
                                  PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED, &error, &at, nullptr);
  L4_CHECK(compiled_->code, "split pattern at ", at, ": ", pcre2_message(error));
  pcre2_jit_compile(compiled_->code, PCRE2_JIT_COMPLETE);  // where there is no JIT the interpreter answers the same
}
Pretokenizer::~Pretokenizer() = default;

void Pretokenizer::split(std::string_view utf8, const std::function<void(std::string_view)>& piece) const {
  if (utf8.empty()) return;
  // A stretch of one kind of character is one piece and may be as long as the text; giving characters back costs the
  // matcher one step each. The JIT code needs little stack for this expression and runs on the 32 KiB it has of itself;
  // where that is ever too little the interpreter, which works on the heap, gives the same answer.
  constexpr uint32_t kMatchLimit = 0xFFFFFFFF;
  struct Match {
    pcre2_match_data* data;
    pcre2_match_context* context = pcre2_match_context_create(nullptr);
    explicit Match(const pcre2_code* code) : data(pcre2_match_data_create_from_pattern(code, nullptr)) {}
    ~Match() {
      pcre2_match_context_free(context);
      pcre2_match_data_free(data);
    }
  } match(compiled_->code);
  if (!match.data || !match.context) throw std::bad_alloc();
  pcre2_set_match_limit(match.context, kMatchLimit);

  const PCRE2_SPTR subject = reinterpret_cast<PCRE2_SPTR>(utf8.data());
  const PCRE2_SIZE* range = pcre2_get_ovector_pointer(match.data);
  for (size_t begin = 0; begin < utf8.size(); begin = range[1]) {
    int found =
        pcre2_match(compiled_->code, subject, utf8.size(), begin, PCRE2_NO_UTF_CHECK, match.data, match.context);
    if (found == PCRE2_ERROR_JIT_STACKLIMIT)
      found = pcre2_match(compiled_->code, subject, utf8.size(), begin, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, match.data,
                          match.context);
    if (found < 0 || range[1] <= begin)
      fail(ErrorKind::unsupported, "text: cannot be split into words at byte ", begin, ": ", pcre2_message(found));
    piece(utf8.substr(begin, range[1] - begin));
  }
}

}  // namespace l4
