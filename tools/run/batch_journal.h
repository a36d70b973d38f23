// The answers of a batch while it runs: OUTPUT.partial, to which each is appended as it comes, in any order. When all
// are there the output is written from it at once, in the order of the input. A batch that was killed goes on from what
// its journal holds; what was half-written is dropped.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <string_view>

#include "base/file.h"

namespace l4::run {

class BatchJournal {
 public:
  // Begins a journal, or goes on with the one that is there. `input_id` tells one input from another. Error{usage} when
  // the output exists already or the journal is of another input, Error{io} when another process writes it.
  BatchJournal(const fs::path& output, const std::string& input_id);
  ~BatchJournal();
  BatchJournal(const BatchJournal&) = delete;
  BatchJournal& operator=(const BatchJournal&) = delete;

  // Any thread. A line that is not final goes into the output where no later one takes its place, and is asked again
  // when the batch goes on.
  void add(int64_t line, std::string_view answer, bool final);  // `answer` without line breaks
  bool has_final(int64_t line) const;
  int64_t n_final() const;

  void finish();  // writes the output and removes the journal

 private:
  struct Entry {
    uint64_t offset = 0, size = 0;  // of the answer in the file
    bool final = false;
  };
  BatchJournal(const fs::path& output, const std::string& input_id, int fd);
  void begin_file();
  void read_entries();
  void append(std::string_view text);
  [[noreturn]] void give_up(const char* what) const;

  const fs::path output_, path_;
  const std::string head_;
  int fd_ = -1;
  mutable std::mutex mutex_;
  uint64_t end_ = 0;                // where the next entry goes
  std::map<int64_t, Entry> lines_;  // by their number in the input
  int64_t n_final_ = 0;
};

}  // namespace l4::run
