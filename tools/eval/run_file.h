// Writes the file that record.h describes: a line at once when its question is answered, so that a killed run loses
// what was being answered and nothing else.
#pragma once

#include "tools/eval/record.h"

namespace l4::eval {

enum class RunStart {
  fresh,   // there must be no such file
  resume,  // go on with the one that is there, which must be of the same run; or begin one
  anew,    // what is there is lost
};

class RunWriter {
 public:
  // Looks at what is there and keeps others from writing to it. Error{usage} for a file that is there already,
  // Error{io | input} naming file and line. Nothing is changed before begin().
  RunWriter(const fs::path& path, RunStart start);
  ~RunWriter();  // leaves no empty file behind
  RunWriter(const RunWriter&) = delete;
  RunWriter& operator=(const RunWriter&) = delete;

  // Error{usage} naming the field in which the file to go on with is another run's. A model or device that is not known
  // yet (empty) is not compared.
  void check(const RunHeader& header) const;
  // check(), then writes the header where none is.
  void begin(const RunHeader& header);
  void append(const Record& record);  // any thread may call it, one at a time

  const std::vector<Record>& kept() const { return found_.records; }  // of the run that goes on
  const fs::path& path() const { return path_; }

 private:
  [[noreturn]] void give_up(const char* what) const;
  void write_line(std::string line);

  fs::path path_;
  int fd_ = -1;
  bool goes_on_ = false, begun_ = false;
  RunFile found_;
  uint64_t end_ = 0;
};

}  // namespace l4::eval
