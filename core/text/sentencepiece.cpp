// SentencePiece models, read by libsentencepiece. The library trusts its file, so everything it would index by, or
// allocate by, is checked on the serialized ModelProto before the library sees it.
//
// Differences from the byte-level formats, all of them the library's: text is normalised as the model says, a space may
// be put before each stretch of ordinary text, and USER_DEFINED pieces are found in ordinary text too (CONTROL pieces
// such as <s> are not).
#include <sentencepiece_processor.h>

#include <algorithm>
#include <cstring>
#include <optional>

#include "base/error.h"
#include "base/strings.h"
#include "text/tokenizer_formats.h"

namespace l4 {

namespace {

// One field of a protobuf message: bytes for wire type 2, a number for the others.
struct Field {
  uint32_t number = 0;
  uint32_t wire_type = 0;
  uint64_t value = 0;
  std::string_view bytes;
};

// Walks a serialized protobuf message without allocating.
class Message {
 public:
  Message(std::string_view bytes, std::string_view source, std::string_view name)
      : rest_(bytes), source_(source), name_(name) {}

  std::optional<Field> next() {
    if (rest_.empty()) return std::nullopt;
    uint64_t tag = varint();
    Field field;
    if (tag > UINT32_MAX || tag >> 3 == 0) refuse("a field number out of range");
    field.number = uint32_t(tag >> 3);
    field.wire_type = uint32_t(tag & 7);
    switch (field.wire_type) {
      case 0:
        field.value = varint();
        break;
      case 1:
        take(8);
        break;
      case 2:
        field.bytes = take(varint());
        break;
      case 5: {
        std::string_view fixed = take(4);
        uint32_t value;
        std::memcpy(&value, fixed.data(), sizeof value);
        field.value = value;
        break;
      }
      default:
        refuse("a field of unknown kind");
    }
    return field;
  }

 private:
  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (rest_.empty()) refuse("it ends inside a number");
      unsigned char byte = static_cast<unsigned char>(rest_[0]);
      rest_.remove_prefix(1);
      value |= uint64_t(byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
    refuse("a number of more than 64 bits");
  }
  std::string_view take(uint64_t n_bytes) {
    if (n_bytes > rest_.size()) refuse(cat("a field claims ", n_bytes, " bytes where ", rest_.size(), " are left"));
    std::string_view bytes = rest_.substr(0, size_t(n_bytes));
    rest_.remove_prefix(size_t(n_bytes));
    return bytes;
  }
  [[noreturn]] void refuse(const std::string& what) {
    fail_input(source_, ": not a SentencePiece model: in ", name_, ": ", what);
  }

  std::string_view rest_;
  std::string_view source_;
  std::string_view name_;
};

// NormalizerSpec.precompiled_charsmap: u32 size of the trie in bytes, a Darts double-array trie of u32 units, then
// zero-terminated replacement strings that the trie's values are offsets into. The library follows the units' offsets
// without looking at the array's size: here every unit's targets are looked at once.
// A unit: bit 31 set = a value in the low 31 bits; else label in bits 0-7, has_leaf bit 8, offset in bits 10-31 (times
// 256 when bit 9 is set). Children of the node at i lie at i ^ offset ^ byte; its value, if any, at i ^ offset.
void check_charsmap(std::string_view map, std::string_view source) {
  auto refuse = [&](std::string_view what) {
    fail_input(source, ": not a SentencePiece model: precompiled_charsmap: ", what);
  };
  if (map.empty()) return;
  auto u32 = [&](size_t at) {
    uint32_t value;
    std::memcpy(&value, map.data() + at, sizeof value);
    return value;
  };
  if (map.size() < 4) refuse("shorter than its header");
  const size_t trie_bytes = u32(0);
  if (trie_bytes == 0 || trie_bytes % 4 || trie_bytes >= map.size() - 4) refuse("the size of the trie is wrong");
  const std::string_view replacements = map.substr(4 + trie_bytes);
  if (replacements.back() != '\0') refuse("the last replacement does not end");
  const size_t n_units = trie_bytes / 4;
  auto unit = [&](size_t i) { return u32(4 + i * 4); };
  constexpr uint32_t kIsValue = 1u << 31, kHasLeaf = 1u << 8;
  for (size_t i = 0; i < n_units; ++i) {
    uint32_t u = unit(i);
    if (u & kIsValue) continue;
    size_t base = i ^ size_t(u >> 10 << ((u & (1u << 9)) >> 6));
    if ((base | 0xFF) >= n_units) refuse("the trie points outside itself");
    if (u & kHasLeaf && (!(unit(base) & kIsValue) || (unit(base) & ~kIsValue) >= replacements.size()))
      refuse("the trie points outside the replacements");
  }
}

void check_normalizer(std::string_view spec, std::string_view source) {
  constexpr uint32_t kCharsmap = 2;
  Message message(spec, source, "NormalizerSpec");
  while (std::optional<Field> field = message.next())
    if (field->number == kCharsmap && field->wire_type == 2) check_charsmap(field->bytes, source);
}

// Field numbers of sentencepiece_model.proto.
void check_model(std::string_view proto, std::string_view source) {
  constexpr uint32_t kPieces = 1, kTrainerSpec = 2, kNormalizerSpec = 3, kSelfTest = 4, kDenormalizerSpec = 5;
  constexpr uint32_t kPieceText = 1, kPieceScore = 2;
  constexpr size_t kMaxPieces = size_t(1) << 21, kMaxPieceBytes = 4096;
  size_t n_pieces = 0;
  Message model(proto, source, "ModelProto");
  while (std::optional<Field> field = model.next()) {
    if (field->number > kDenormalizerSpec) continue;
    if (field->wire_type != 2)
      fail_input(source, ": not a SentencePiece model: field ", field->number, " is no message");
    if (field->number == kNormalizerSpec || field->number == kDenormalizerSpec) check_normalizer(field->bytes, source);
    if (field->number == kTrainerSpec || field->number == kSelfTest) {
      Message message(field->bytes, source, field->number == kTrainerSpec ? "TrainerSpec" : "SelfTestData");
      while (message.next()) {
      }
    }
    if (field->number != kPieces) continue;
    std::string_view text;
    Message piece(field->bytes, source, "SentencePiece");
    while (std::optional<Field> part = piece.next()) {
      if (part->number == kPieceText && part->wire_type == 2) text = part->bytes;
      if (part->number == kPieceScore && part->wire_type == 5 && (part->value >> 23 & 0xFF) == 0xFF)
        fail_input(source, ": piece ", n_pieces, ": its score is not a finite number");
    }
    if (text.empty() || text.size() > kMaxPieceBytes || !is_valid_utf8(text))
      fail_input(source, ": piece ", n_pieces, ": expected 1 to ", kMaxPieceBytes, " bytes of UTF-8, found ",
                 shown(text));
    if (++n_pieces > kMaxPieces) fail_input(source, ": more than ", kMaxPieces, " pieces");
  }
  if (n_pieces == 0) fail_input(source, ": not a SentencePiece model: it has no pieces");
}

class SentencePieceTokenizer : public Tokenizer {
 public:
  SentencePieceTokenizer(std::string_view proto, std::string_view source) {
    if (auto status = processor_.LoadFromSerializedProto(proto); !status.ok())
      fail_input(source, ": libsentencepiece refuses this model");
    std::vector<SpecialToken> specials;
    const int n_pieces = processor_.GetPieceSize();
    bytes_.resize(size_t(n_pieces));
    for (int id = 0; id < n_pieces; ++id) {
      const std::string& piece = processor_.IdToPiece(id);
      if (processor_.IsControl(id) || processor_.IsUnknown(id))
        specials.push_back({piece, id});
      else if (processor_.IsByte(id))  // "<0x0A>"
        bytes_[size_t(id)] = std::string(1, char(std::stoi(piece.substr(3, 2), nullptr, 16)));
      else
        bytes_[size_t(id)] = with_spaces(piece);
    }
    set_special_tokens(std::move(specials), source);
    set_vocab_size(n_pieces);
  }
  std::string_view format() const override { return "SentencePiece"; }

 private:
  void encode_ordinary(std::string_view utf8, std::vector<int32_t>& ids) const override {
    constexpr size_t kMaxTextBytes = size_t(1) << 28;  // the library counts in int
    if (utf8.empty()) return;
    if (utf8.size() > kMaxTextBytes)
      fail(ErrorKind::usage, "text: ", human_bytes(utf8.size()), " is too long to tokenise");
    std::vector<int> found;
    if (!processor_.Encode(utf8, &found).ok()) fail(ErrorKind::usage, "text: libsentencepiece cannot tokenise it");
    ids.insert(ids.end(), found.begin(), found.end());
  }
  std::string_view ordinary_bytes(int32_t id) const override {
    return id >= 0 && size_t(id) < bytes_.size() ? std::string_view(bytes_[size_t(id)]) : std::string_view();
  }
  // Pieces write a space as U+2581.
  static std::string with_spaces(std::string_view piece) {
    constexpr std::string_view kMark = "\xE2\x96\x81";
    std::string text;
    for (size_t pos = 0; pos < piece.size();) {
      if (piece.substr(pos).starts_with(kMark)) {
        text.push_back(' ');
        pos += kMark.size();
      } else {
        text.push_back(piece[pos++]);
      }
    }
    return text;
  }

  sentencepiece::SentencePieceProcessor processor_;
  std::vector<std::string> bytes_;  // by id; empty for control pieces
};

}  // namespace

std::unique_ptr<Tokenizer> load_sentencepiece(std::string_view proto, std::string_view source) {
  check_model(proto, source);
  try {
    return std::make_unique<SentencePieceTokenizer>(proto, source);
  } catch (const Error&) {
    throw;
  } catch (const std::exception&) {
    fail_input(source, ": libsentencepiece refuses this model");
  }
}

}  // namespace l4
