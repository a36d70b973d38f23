// Byte-pair encoding: a vocabulary of byte strings and a ranked list of merges.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace l4 {

// Filled once by a loader, then immutable and shared by threads.
class BpeModel {
 public:
  // Longest chain of bytes a piece may have (positions are 31-bit numbers).
  static constexpr size_t kMaxPieceBytes = (size_t(1) << 31) - 2;

  BpeModel() { byte_id_.fill(-1); }

  // Ids may come in any order. False when the id or the bytes are already there, or the bytes are empty.
  bool add_token(int32_t id, std::string bytes);
  // left + right -> their concatenation, lower ranks first. False when one of the three is no token; a pair given again
  // takes the new rank.
  bool add_merge(std::string_view left, std::string_view right, uint32_t rank);
  // All merges of a vocabulary whose ids are its ranks (tiktoken): every way to split a token into two tokens.
  void merge_by_id();
  // A piece that is a token as a whole is that token, merges or not (tokenizer.json: ignore_merges).
  void set_whole_pieces(bool yes) { whole_pieces_ = yes; }
  // Byte that is no token by itself, or -1 when all 256 are there, as encoding needs.
  int missing_byte() const;

  int32_t find(std::string_view bytes) const;                // -1 when it is no token
  std::string_view bytes(int32_t id) const;                  // empty when there is no such id
  int32_t n_ids() const { return int32_t(tokens_.size()); }  // largest id + 1

  // Buffers that encode() uses again from piece to piece.
  struct Scratch {
    std::vector<int32_t> id, next, previous;
    std::vector<uint32_t> rank;
    std::vector<uint64_t> heap;
  };
  // Appends the ids of one piece: merges the adjacent pair of lowest rank, the leftmost of equals, until none is left.
  // O(n log n) in the piece's bytes.
  void encode(std::string_view piece, std::vector<int32_t>& ids, Scratch& scratch) const;

 private:
  struct BytesHash {
    using is_transparent = void;
    size_t operator()(std::string_view bytes) const { return std::hash<std::string_view>()(bytes); }
  };
  struct Merge {
    uint64_t pair = kNoPair;  // left id << 32 | right id
    uint32_t rank = 0;
    int32_t id = 0;
  };
  static constexpr uint64_t kNoPair = ~uint64_t(0);

  const Merge* find_merge(int32_t left, int32_t right) const;
  void put_merge(const Merge& merge);
  void grow_merges(size_t n_slots);

  std::vector<std::string> tokens_;  // by id; empty where there is none
  std::unordered_map<std::string, int32_t, BytesHash, std::equal_to<>> id_of_;
  std::array<int32_t, 256> byte_id_;  // -1 where the byte is no token
  std::vector<Merge> merges_;         // open addressing, a power of two of slots
  size_t n_merges_ = 0;
  bool whole_pieces_ = true;
};

}  // namespace l4
